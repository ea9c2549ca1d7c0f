"""Self-contained HTML pages: text, tables, and plots drawn as SVG by hand."""

import html
import math
from collections.abc import Sequence

# in each picture, so that it can be saved and shown by itself
SVG_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #6a737d; --line: #d0d7de; --page: #fff;
  --c0: #2563eb; --c1: #dc6803; --c2: #0d9488; --c3: #9333ea; --c4: #be123c; --c5: #65a30d;
  --c6: #0284c7; --c7: #a16207; --c8: #64748b; --c9: #db2777; --c10: #15803d; --c11: #475569; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa4ae; --line: #3a424b; --page: #0d1117; } }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui; }
.soft { fill: var(--soft) !important; } .axis { stroke: var(--soft); fill: none; }
.grid { stroke: var(--line); fill: none; }
"""
PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p { color: var(--soft); } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
td, th { padding: .2rem .55rem; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; }
"""
COLOURS = 12
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 44

type Points = Sequence[tuple[float, float]]


def page(title: str, sections: Sequence[str]) -> str:
    """An HTML document that loads nothing from anywhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{SVG_STYLE}{PAGE_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A heading."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{html.escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is its rows' names."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def side_by_side(*parts: str) -> str:
    """Pictures in a row, where there is room."""
    return f'<div class="pair">{"".join(parts)}</div>'


def line_plot(
    title: str,
    series: dict[str, Points],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    joined: bool = True,
    size: tuple[int, int] = (500, 320),
) -> str:
    """Lines through points, or points alone; a point below zero on a logarithmic axis is left out.

    Raises:
        ValueError: there is no point to draw.
    """
    shown = {
        name: [(x, y) for x, y in points if (x > 0 or not log_x) and (y > 0 or not log_y)]
        for name, points in series.items()
    }
    everything = [point for points in shown.values() for point in points]
    if not everything:
        raise ValueError(f"the plot {title!r} has no points")
    x_axis = _Axis([x for x, _ in everything], log_x, (LEFT, size[0] - RIGHT))
    y_axis = _Axis([y for _, y in everything], log_y, (size[1] - BOTTOM, TOP))
    parts = [_text(size[0] / 2, 16, title, anchor="middle", weight=600)]
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{size[1] - BOTTOM}"/>')
        parts.append(_text(x, size[1] - BOTTOM + 16, short(tick), anchor="middle", soft=True))
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{size[0] - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y + 4, short(tick), anchor="end", soft=True))
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{size[1] - BOTTOM}H{size[0] - RIGHT}"/>')
    parts.append(_text(size[0] / 2, size[1] - 8, x_label, anchor="middle"))
    parts.append(_text(LEFT - 48, TOP - 8, y_label))
    for i, (name, points) in enumerate(shown.items()):
        colour = f"var(--c{i % COLOURS})"
        places = [(x_axis.place(x), y_axis.place(y)) for x, y in points]
        if joined and len(places) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (px, py) in zip(points, places, strict=True):
            tip = f"<title>{html.escape(name)}: {short(x)}, {short(y)}</title>"
            parts.append(
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}">{tip}</circle>'
            )
        if len(shown) > 1:
            row = TOP + 8 + 16 * i
            parts.append(
                f'<rect x="{LEFT + 8}" y="{row - 8}" width="10" height="10" fill="{colour}"/>'
            )
            parts.append(_text(LEFT + 22, row + 1, name))
    return svg(size, parts)


def stacked_bars(
    title: str, bars: dict[str, dict[str, float]], *, unit: str, width: int = 900
) -> str:
    """A horizontal bar for each name, cut into its parts; a colour is the same part in all.

    Raises:
        ValueError: there is nothing above zero.
    """
    names = list(dict.fromkeys(part for parts in bars.values() for part in parts))
    longest = max((sum(parts.values()) for parts in bars.values()), default=0.0)
    if longest <= 0:
        raise ValueError(f"the picture {title!r} has nothing to show")
    left, room = 150, width - 150 - 90
    out = [_text(0, 16, title, weight=600)]
    for i, name in enumerate(names):
        across, down = 160 * (i % 5), 36 + 18 * (i // 5)
        out.append(
            f'<rect x="{across}" y="{down - 9}" width="10" height="10" fill="{_colour(i)}"/>'
        )
        out.append(_text(across + 14, down, name))
    top = 50 + 18 * ((len(names) - 1) // 5)
    for row, (bar, parts) in enumerate(bars.items()):
        y, x = top + 26 * row, float(left)
        out.append(_text(left - 8, y + 14, bar, anchor="end"))
        for part, value in parts.items():
            wide = room * value / longest
            tip = f"<title>{html.escape(part)}: {short(value)} {html.escape(unit)}</title>"
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="20" '
                f'fill="{_colour(names.index(part))}">{tip}</rect>'
            )
            x += wide
        out.append(_text(x + 6, y + 14, f"{short(sum(parts.values()))} {unit}", soft=True))
    return svg((width, top + 26 * len(bars) + 10), out)


def svg(size: tuple[int, int], parts: Sequence[str]) -> str:
    """A drawing of so many pixels."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        f'width="{size[0]}" height="{size[1]}" role="img">'
        f"<style>{SVG_STYLE}</style>{''.join(parts)}</svg>"
    )


def short(value: float) -> str:
    """A number for a label: three digits, k, M or G behind large ones."""
    for limit, word in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if word == 'k' else limit):.3g}{word}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


class _Axis:
    """Where values lie between two pixels, and which of them are written."""

    def __init__(self, values: Sequence[float], log: bool, pixels: tuple[float, float]):
        self._log = log
        self._pixels = pixels
        low, high = min(values), max(values)
        if log:
            # whole decades; between them 2 and 5, where there are few
            decades = [10.0**e for e in range(math.floor(math.log10(low)), 13)]
            factors = (1, 2, 5) if high / low < 1000 else (1,)
            marks = [decade * factor for decade in decades for factor in factors]
            first = max(i for i, mark in enumerate(marks) if mark <= low)
            last = next(i for i, mark in enumerate(marks) if mark >= high and i > first)
            self.ticks = marks[first : last + 1]
            self._low, self._high = math.log10(self.ticks[0]), math.log10(self.ticks[-1])
        else:
            low = min(low, 0.0)
            step = _nice((high - low or 1.0) / 5)
            self.ticks = [
                step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)
            ]
            self._low, self._high = self.ticks[0], max(self.ticks[-1], high, self.ticks[0] + step)

    def place(self, value: float) -> float:
        """The pixel of a value."""
        at = math.log10(value) if self._log else value
        start, end = self._pixels
        return start + (end - start) * (at - self._low) / (self._high - self._low)


def _nice(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)


def _colour(i: int) -> str:
    return f"var(--c{i % COLOURS})"


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", soft: bool = False, weight: int = 400
) -> str:
    kind = ' class="soft"' if soft else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind} '
        f'style="font-weight:{weight}">{html.escape(text)}</text>'
    )
