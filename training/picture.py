"""A loss curve as SVG."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 36, 44
COLOURS = ("#4c72b0", "#c44e52")
TICKS = 5

type Series = Sequence[tuple[float, float]]


def _points(series: Series, box: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    low_x, high_x, low_y, high_y = box
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return [
        (
            LEFT + across * (x - low_x) / ((high_x - low_x) or 1),
            TOP + down * (high_y - min(y, high_y)) / ((high_y - low_y) or 1),
        )
        for x, y in series
    ]


def draw(series: dict[str, Series], *, title: str, x_label: str, max_y: float | None = None) -> str:
    """The lines in one frame, each with its name; what lies above `max_y` is drawn at it."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    top = max(ys) if max_y is None else min(max_y, max(ys))
    box = (0.0, max(xs), min(ys), top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>',
    ]
    for tick in range(TICKS + 1):
        x = box[0] + (box[1] - box[0]) * tick / TICKS
        y = box[2] + (box[3] - box[2]) * tick / TICKS
        (at_x, at_y) = _points([(x, y)], box)[0]
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_y:.1f}" y2="{at_y:.1f}"'
            ' stroke="#ddd"/>',
            f'<text x="{LEFT - 6}" y="{at_y + 4:.1f}" text-anchor="end">{y:.2f}</text>',
            f'<text x="{at_x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>',
        ]
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in _points(points, box))
        parts += [
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            f'<text x="{WIDTH - RIGHT}" y="{TOP + 16 * (number + 1)}" text-anchor="end"'
            f' fill="{colour}">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
