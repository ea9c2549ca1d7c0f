"""A loss curve as SVG."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 36, 44
COLOURS = ("#4c72b0", "#c44e52")

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


def round_step(highest: float) -> float:
    """1, 2 or 5 times a power of ten, so that some five steps reach `highest`."""
    power = 10 ** floor(log10(highest / 4))
    return next(times * power for times in (1, 2, 5, 10) if times * power * 5.5 >= highest)


def draw(series: dict[str, Series], *, title: str, x_label: str, max_y: float | None = None) -> str:
    """The lines in one frame, each with its name; what lies above `max_y` is drawn at it."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    top = max(ys) if max_y is None else min(max_y, max(ys))
    step_x, step_y = round_step(max(xs)), round_step(top)
    # frames that begin at zero and end at a round number
    box = (0.0, step_x * ceil(max(xs) / step_x), 0.0, step_y * ceil(top / step_y))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>',
    ]
    for tick in range(round(box[1] / step_x) + 1):
        ((at, _),) = _points([(tick * step_x, 0)], box)
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{tick * step_x:g}</text>"
        )
    for tick in range(round(box[3] / step_y) + 1):
        ((_, at),) = _points([(0, tick * step_y)], box)
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>',
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick * step_y:g}</text>',
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
