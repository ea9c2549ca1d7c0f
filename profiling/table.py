"""Tables as text: what the profiling scripts and benchmarks print."""

from collections.abc import Sequence

MISSING = "–"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell; the first is aligned left, the others right."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def number(value: float | None, unit: float = 1.0, digits: int = 3) -> str:
    """`value / unit` with so many significant digits, no exponent; a dash for None."""
    if value is None:
        return MISSING
    scaled = value / unit
    if scaled == 0:
        return "0"
    if abs(scaled) >= 10**digits:
        return f"{scaled:,.0f}"
    return f"{scaled:#.{digits}g}".rstrip(".") if abs(scaled) >= 1e-3 else f"{scaled:.1e}"
