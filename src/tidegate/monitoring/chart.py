"""Charts as inline SVG: no script, no file beside the page.

Colours are the page's own (`--teal` and so on), so that a chart is read in the dark as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

Scale = Callable[[float], float]
TEAL, ORANGE, RED, BLUE, GREY = (f"var(--{name})" for name in ("teal", "orange", "red", "blue", "grey"))
_WIDTH, _HEIGHT = 860, 246
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 18, 30, 26


class Line(NamedTuple):
    """One series; None is a gap.

    Attributes:
        name: For the legend.
        values: One for each place on the horizontal axis.
        colour: CSS colour.
        style: `line`, `dashed` or `dots`.
    """

    name: str
    values: Sequence[float | None]
    colour: str
    style: str = "line"


class Mark(NamedTuple):
    """A vertical line with a word.

    Attributes:
        place: Position on the horizontal axis.
        text: What it says when pointed at.
        colour: CSS colour.
        name: What stands above it; short.
    """

    place: int
    text: str
    colour: str
    name: str = ""


def time_chart(
    labels: Sequence[str],
    lines: Sequence[Line],
    *,
    title: str,
    marks: Sequence[Mark] = (),
    levels: Sequence[tuple[str, float, str]] = (),
    unit: str = "",
) -> str:
    """Return a chart over time.

    Args:
        labels: Name of each place on the horizontal axis.
        lines: The series, each as long as `labels`.
        title: Read aloud to those who cannot see it.
        marks: Events.
        levels: Horizontal lines: name, value, colour.
        unit: `%` shows shares as per cent.
    """
    values = [v for line in lines for v in line.values if v is not None and math.isfinite(v)]
    values += [value for _, value, _ in levels]
    if not values or not labels:
        return '<p class="quiet">Nothing to draw.</p>'
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = (0.0 if low >= 0 and low < (high - low) else low - pad), high + pad
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(place: float) -> float:
        return _LEFT + width * (place + 0.5) / len(labels)

    def y(value: float) -> float:
        return _TOP + height * (1 - (value - low) / (high - low))

    parts = [_axis(low, high, y, unit), _ticks(labels, x)]
    for name, value, colour in levels:
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="{colour}" stroke-dasharray="5 4"><title>{escape(name)}: {value:.4g}</title></line>'
        )
    parts.append(_marks(marks, x))
    parts += [_series(line, x, y) for line in lines]
    names = [(line.name, line.colour, line.style) for line in lines]
    names += [(name, colour, "dashed") for name, _, colour in levels]
    return _frame(title, "".join(parts)) + _legend(names)


def _marks(marks: Sequence[Mark], x: Scale) -> str:
    """Draw events; names that would stand upon each other are put one above the other."""
    parts, ends = [], [-math.inf, -math.inf]
    for mark in sorted(marks, key=lambda each: each.place):
        at = x(mark.place)
        row = 0 if at >= ends[0] else 1
        ends[row] = at + 9 + 6 * len(mark.name)
        top = _TOP - 4 - 11 * row
        parts.append(
            f'<g><title>{escape(mark.text)}</title><line x1="{at:.1f}" x2="{at:.1f}" y1="{top + 2}" '
            f'y2="{_HEIGHT - _BOTTOM}" stroke="{mark.colour}" stroke-width="2" opacity=".55"/>'
            f'<text x="{at:.1f}" y="{top}" text-anchor="middle" style="fill:{mark.colour};font-weight:600">'
            f"{escape(mark.name)}</text></g>"
        )
    return "".join(parts)


def _series(line: Line, x: Scale, y: Scale) -> str:
    points = [
        (x(place), y(value))
        for place, value in enumerate(line.values)
        if value is not None and math.isfinite(value)
    ]
    if line.style == "dots":
        return "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.4" fill="{line.colour}"/>' for a, b in points)
    dash = ' stroke-dasharray="4 3"' if line.style == "dashed" else ""
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.8"{dash}/>'


def _axis(low: float, high: float, y: Scale, unit: str) -> str:
    parts = []
    for value in _round_steps(low, high):
        text = f"{value:.0%}" if unit == "%" else f"{value:.4g}"
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{text}</text>'
        )
    return "".join(parts)


def _ticks(labels: Sequence[str], x: Scale) -> str:
    every = max(1, len(labels) // 10)
    return "".join(
        f'<text x="{x(place):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(labels[place])}</text>'
        for place in range(0, len(labels), every)
    )


def _round_steps(low: float, high: float) -> list[float]:
    rough = (high - low) / 4
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
    first = math.ceil(low / step)
    return [step * n for n in range(first, math.floor(high / step) + 1)]


def strip_chart(labels: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None], float]]) -> str:
    """Return one row of cells a test: the darker, the less likely by chance; red where it alarmed.

    Args:
        labels: Name of each column.
        rows: Name, p-values (None: not tested), level of the alarm.
    """
    left, cell_height = 120, 18
    cell = (_WIDTH - left - _RIGHT) / max(1, len(labels))
    parts = []
    for place, (name, p_values, level) in enumerate(rows):
        top = place * (cell_height + 4)
        parts.append(f'<text x="{left - 6}" y="{top + 13}" text-anchor="end">{escape(name)}</text>')
        for column, p in enumerate(p_values):
            if p is None:
                continue
            alarm = p <= level
            dark = min(1.0, -math.log10(max(p, 1e-4)) / 4)
            fill = ORANGE if alarm else TEAL
            parts.append(
                f'<rect x="{left + column * cell:.1f}" y="{top}" width="{max(cell - 0.6, 0.6):.1f}" '
                f'height="{cell_height}" fill="{fill}" opacity="{0.06 + 0.9 * dark:.2f}">'
                f"<title>{escape(labels[column])}: p = {p:.3g}</title></rect>"
            )
    height = len(rows) * (cell_height + 4) + 18
    every = max(1, len(labels) // 10)
    parts.extend(
        f'<text x="{left + (place + 0.5) * cell:.1f}" y="{height - 4}" text-anchor="middle">'
        f"{escape(labels[place])}</text>"
        for place in range(0, len(labels), every)
    )
    return _frame("Tests by day", "".join(parts), height=height)


def interval_chart(
    rows: Sequence[tuple[str, float, float, float, float | None, float | None]], *, title: str
) -> str:
    """Return estimates with intervals beside what came true.

    Args:
        rows: Name, estimate, low end, high end, realised, constant reference.
        title: Read aloud.
    """
    values = [v for row in rows for v in row[1:] if v is not None and math.isfinite(v)]
    if not values:
        return ""
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or 0.01
    low, high = low - pad, high + pad
    left, row_height = 120, 26

    def x(value: float) -> float:
        held = min(max(value, low), high)  # an interval without an end goes to the margin
        return left + (_WIDTH - left - _RIGHT) * (held - low) / (high - low)

    parts: list[str] = []
    height = len(rows) * row_height + 24
    parts.extend(
        f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="0" y2="{height - 20}" class="grid"/>'
        f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value:.4g}</text>'
        for value in _round_steps(low, high)
    )
    for place, (name, value, bottom, top, realised, constant) in enumerate(rows):
        y = place * row_height + 14
        parts.append(
            f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<line x1="{x(bottom):.1f}" x2="{x(top):.1f}" y1="{y}" y2="{y}" stroke="{TEAL}" '
            f'stroke-width="7" opacity=".35"/><circle cx="{x(value):.1f}" cy="{y}" r="5" fill="{TEAL}">'
            f"<title>estimated {value:.4f} ({bottom:.4f} to {top:.4f})</title></circle>"
        )
        if constant is not None:
            parts.append(
                f'<line x1="{x(constant):.1f}" x2="{x(constant):.1f}" y1="{y - 8}" y2="{y + 8}" '
                f'stroke="{GREY}" stroke-width="2"><title>reference {constant:.4f}</title></line>'
            )
        if realised is not None:
            parts.append(
                f'<rect x="{x(realised) - 4:.1f}" y="{y - 4}" width="8" height="8" fill="{ORANGE}" '
                f'transform="rotate(45 {x(realised):.1f} {y})"><title>realised {realised:.4f}</title></rect>'
            )
    names = [
        ("estimated without labels, with its interval", TEAL, "dots"),
        ("realised", ORANGE, "diamond"),
        ("reference", GREY, "line"),
    ]
    return _frame(title, "".join(parts), height=height) + _legend(names)


def scatter_chart(points: Sequence[tuple[float, float, float, float]], *, title: str) -> str:
    """Return predicted against observed shares with intervals, beside the diagonal.

    Args:
        points: Predicted, observed, low and high end of the observed share.
        title: Read aloud.
    """
    size, margin, edge = 330, 52, 22
    inner = size - margin - edge

    def x(value: float) -> float:
        return margin + inner * value

    def y(value: float) -> float:
        return edge / 2 + inner * (1 - value)

    parts = [
        f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}" stroke="{GREY}" stroke-dasharray="4 3"/>',
        f'<text x="{x(0.5)}" y="{size - 3}" text-anchor="middle">predicted</text>',
        f'<text x="12" y="{y(0.5)}" text-anchor="middle" transform="rotate(-90 12 {y(0.5)})">observed</text>',
    ]
    parts.extend(
        f'<text x="{x(tick):.0f}" y="{size - 22}" text-anchor="middle">{tick:.0%}</text>'
        f'<text x="{margin - 6}" y="{y(tick) + 4:.0f}" text-anchor="end">{tick:.0%}</text>'
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    for predicted, observed, low, high in points:
        parts.append(
            f'<line x1="{x(predicted):.1f}" x2="{x(predicted):.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" '
            f'stroke="{TEAL}" opacity=".5" stroke-width="3"/><circle cx="{x(predicted):.1f}" '
            f'cy="{y(observed):.1f}" r="4.5" fill="{TEAL}"><title>predicted {predicted:.1%}, observed '
            f"{observed:.1%}</title></circle>"
        )
    return (
        f'<svg viewBox="0 0 {size} {size}" style="max-width:{size}px" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def bar(share: float, colour: str) -> str:
    """Return a small bar for a table's cell; `share` in [0, 1]."""
    width = max(0.0, min(1.0, share)) * 100
    return f'<span class="bar"><span style="width:{width:.0f}%;background:{colour}"></span></span>'


def _frame(title: str, inner: str, *, height: int = _HEIGHT) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">{inner}</svg>'


def _legend(names: Sequence[tuple[str, str, str]]) -> str:
    marks = {
        "dots": "<i class=dot style='background:{}'></i>",
        "diamond": "<i class='dot diamond' style='background:{}'></i>",
        "dashed": "<i style='border-top:3px dashed {}'></i>",
        "line": "<i style='border-top:3px solid {}'></i>",
    }
    items = "".join(
        f"<span>{marks[style].format(colour)}{escape(name)}</span>" for name, colour, style in names
    )
    return f'<div class="legend">{items}</div>'
