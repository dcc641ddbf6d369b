"""Small plots as inline SVG: curves over steps, and the spread of one figure over objects."""

import math
from dataclasses import dataclass

from evaluation.report_page.markup import Markup, element, join

# Colours are classes of the page's style sheet, so that the plots follow a dark page: series0, series1, ...
COLOURS = 4
WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 30, 38


@dataclass(frozen=True)
class Series:
    """One line of a plot: x and y of equal length; points that are not finite break the line."""

    name: str
    x: list[float]
    y: list[float]
    dots: bool = False


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def curves(title: str, series: list[Series], x_label: str = "step") -> Markup:
    """Lines over a common x axis, with a legend; `series` without a finite point are left out."""
    finite = [(x, y) for line in series for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return element("p", f"{title}: nothing was logged", class_="soft")
    x_low, x_high = _padded([x for x, _ in finite], 0.0)
    y_low, y_high = _padded([y for _, y in finite], 0.06)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    parts: list[object] = [_text(LEFT, 14, title, class_="title")]
    for y in ticks(y_low, y_high):
        height = place(x_low, y)[1]
        parts += [_line(LEFT, height, WIDTH - RIGHT, height, "grid"), _text(LEFT - 6, height + 4, f"{y:g}", text_anchor="end")]
    for x in ticks(x_low, x_high):
        parts.append(_text(place(x, y_low)[0], HEIGHT - BOTTOM + 17, f"{x:g}", text_anchor="middle"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 4, x_label, text_anchor="end"))
    for number, line in enumerate(series):
        parts += _drawn(line, f"series{number % COLOURS}", place)
    if len(series) > 1:
        parts.append(_legend([line.name for line in series]))
    return element("svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)


def _drawn(line: Series, colour: str, place) -> list[Markup]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            pieces[-1].append(place(x, y))
        elif pieces[-1]:
            pieces.append([])
    marks = []
    for piece in pieces:
        if len(piece) > 1:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            marks.append(element("polyline", points=points, class_=colour))
        if line.dots or len(piece) == 1:
            marks += [element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3", class_=colour) for x, y in piece]
    return marks


def spread(
    title: str,
    values: list[float],
    mean: float | None = None,
    interval: list[float] | None = None,
    names: list[str] | None = None,
) -> Markup:
    """One dot per object over the value axis, the mean as a line and its interval as a band; `names` show on pointing at a dot."""
    labels = names or [f"{value:g}" for value in values]
    known = sorted((value, name) for value, name in zip(values, labels, strict=True) if math.isfinite(value))
    if not known:
        return element("p", f"{title}: no value", class_="soft")
    height, base = 110, 82
    low, high = _padded([value for value, _ in known] + [v for v in (interval or []) if math.isfinite(v)], 0.05)

    def at(value: float) -> float:
        return 16 + (value - low) / (high - low) * (WIDTH - 32)

    parts: list[object] = [_text(16, 14, title, class_="title")]
    if interval:
        wide = max(at(interval[1]) - at(interval[0]), 1)
        parts.append(element("rect", x=f"{at(interval[0]):.1f}", y=24, width=f"{wide:.1f}", height=base - 24, class_="band"))
    if mean is not None and math.isfinite(mean):
        parts.append(_line(at(mean), 24, at(mean), base, "mean"))
    parts.append(_line(16, base, WIDTH - 16, base, "axis"))
    parts += [_text(at(tick), base + 16, f"{tick:g}", text_anchor="middle") for tick in ticks(low, high)]
    stacks: dict[int, int] = {}
    for value, name in known:
        column = round(at(value) / 7)
        level = stacks[column] = stacks.get(column, 0) + 1
        top = max(28, base + 1 - 7 * level)
        parts.append(element("circle", element("title", name), cx=f"{at(value):.1f}", cy=top, r="3.4", class_="object-dot"))
    return element("svg", parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=f"{title}: {len(known)} objects")


def _padded(values: list[float], share: float) -> tuple[float, float]:
    """Lowest and highest value with a margin; never an empty range."""
    low, high = min(values), max(values)
    margin = (high - low) * share or (0.0 if high > low else max(abs(high) * 0.05, 1e-3))
    return low - margin, high + margin


def _legend(names: list[str]) -> Markup:
    parts: list[object] = []
    x = WIDTH - RIGHT - sum(26 + 7.2 * len(name) for name in names)
    for number, name in enumerate(names):
        parts += [
            element("rect", x=f"{x:.0f}", y=6, width=10, height=10, rx=2, class_=f"series{number % COLOURS}"),
            _text(x + 14, 15, name),
        ]
        x += 26 + 7.2 * len(name)
    return join(parts)


def _text(x: float, y: float, text: str, **attributes: object) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", **attributes)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)
