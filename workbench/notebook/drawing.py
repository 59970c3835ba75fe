"""Charts as SVG text: lines over steps, estimates with their intervals, and counts as bars.

Colours are of a middle lightness and axes take the text's own colour, so a chart reads on light and dark pages alike.
Everything is inline: no style sheet that could leak into the notebook, no script, nothing to fetch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from workbench.evaluation.report_pieces import COLORS, escaped
from workbench.records import Interval
from workbench.runs.curves import Points

WIDTH = 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 10, 36
_GRID = "stroke='currentColor' stroke-opacity='0.15'"
_INK = "fill='currentColor' fill-opacity='0.75' font-size='11' font-family='system-ui, sans-serif'"


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    points: Points
    color: str = COLORS[0]
    faint: bool = False
    """A background line: thin, translucent and without an entry in the legend."""
    dots: bool = False
    """Whether each point is marked; hovering tells its value."""


def line_chart(lines: Sequence[Line], unit: str, *, height: int = 220) -> str:
    """Lines over steps; empty where there is no point.

    Args:
        lines: what to draw, background first.
        unit: what the vertical axis measures.
        height: pixels.
    """
    every = [point for line in lines for point in line.points if _drawable(point[1])]
    if not every:
        return ""
    first, last = min(step for step, _ in every), max(step for step, _ in every)
    low, high = _padded(min(value for _, value in every), max(value for _, value in every))

    def x(step: float) -> float:
        return _LEFT + (step - first) / max(1, last - first) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (height - _TOP - _BOTTOM)

    parts = []
    for tick in ticks(low, high):
        parts.append(f"<line x1='{_LEFT}' x2='{WIDTH - _RIGHT}' y1='{y(tick):.1f}' y2='{y(tick):.1f}' {_GRID}/>")
        parts.append(f"<text x='{_LEFT - 6}' y='{y(tick) + 4:.1f}' text-anchor='end' {_INK}>{tick:g}</text>")
    for step in sorted({int(tick) for tick in ticks(first, last) if tick == int(tick)} or {first}):
        parts.append(f"<text x='{x(step):.1f}' y='{height - 20}' text-anchor='middle' {_INK}>{step:,}</text>")
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f"<text x='{middle:.0f}' y='{height - 4}' text-anchor='middle' {_INK}>step</text>")
    parts += [_line(line, x, y) for line in lines if line.points]
    told = f"{unit} over steps {first:,} to {last:,}"
    return _svg(height, told, parts) + _legend([line for line in lines if line.points and not line.faint], unit)


def interval_chart(estimates: Sequence[tuple[str, Interval]], unit: str, *, zero: bool = False) -> str:
    """One point with its interval a row; hovering tells the figures. Empty where there is no estimate.

    Args:
        estimates: shown name and figure, in order.
        unit: what the horizontal axis measures.
        zero: whether a line marks the value 0.
    """
    if not estimates:
        return ""
    left, row = 190, 30
    height = len(estimates) * row + _TOP + _BOTTOM
    bounds = [bound for _, item in estimates for bound in (item.low, item.high, *((0.0,) if zero else ()))]
    low, high = _padded(min(bounds), max(bounds))

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - _RIGHT)

    parts = []
    for tick in ticks(low, high):
        dark = "stroke='currentColor' stroke-opacity='0.5'" if zero and tick == 0 else _GRID
        parts.append(f"<line x1='{x(tick):.1f}' x2='{x(tick):.1f}' y1='{_TOP}' y2='{height - _BOTTOM}' {dark}/>")
        parts.append(f"<text x='{x(tick):.1f}' y='{height - 20}' text-anchor='middle' {_INK}>{tick:g}</text>")
    for place, (name, item) in enumerate(estimates):
        color, middle = COLORS[place % len(COLORS)], _TOP + place * row + row / 2
        told = f"{name}: {item.value:.3g} ({item.low:.3g} to {item.high:.3g}), n = {item.n:,}"
        parts.append(
            f"<g><title>{escaped(told)}</title>"
            f"<text x='{left - 10}' y='{middle + 4:.1f}' text-anchor='end' {_INK}>{escaped(_cut(name))}</text>"
            f"<line x1='{x(item.low):.1f}' x2='{x(item.high):.1f}' y1='{middle}' y2='{middle}' "
            f"stroke='{color}' stroke-width='3' stroke-opacity='0.55'/>"
            f"<circle cx='{x(item.value):.1f}' cy='{middle}' r='5' fill='{color}'/></g>"
        )
    axis = f"<text x='{(left + WIDTH - _RIGHT) / 2:.0f}' y='{height - 4}' text-anchor='middle' {_INK}>"
    parts.append(f"{axis}{escaped(unit)}</text>")
    return _svg(height, f"{unit} with intervals", parts)


def bar_chart(bars: Sequence[tuple[str, int, str]], unit: str, *, color: str = COLORS[0]) -> str:
    """One bar a row with its count; hovering tells more. Empty where there is no bar.

    Args:
        bars: shown name, count, and what hovering tells besides, in order.
        unit: what is counted.
        color: of the bars.
    """
    if not bars:
        return ""
    left, row, room = 210, 24, 46
    most = max(1, *(count for _, count, _ in bars))
    parts = []
    for place, (name, count, more) in enumerate(bars):
        top, width = _TOP + place * row, count / most * (WIDTH - left - _RIGHT - room)
        told, shown = f"{name}: {count:,} {unit}{f'; {more}' if more else ''}", escaped(_cut(name, 34))
        parts.append(
            f"<g><title>{escaped(told)}</title>"
            f"<text x='{left - 10}' y='{top + row / 2 + 3:.1f}' text-anchor='end' {_INK}>{shown}</text>"
            f"<rect x='{left}' y='{top + 3}' width='{width:.1f}' height='{row - 6}' rx='2' fill='{color}'/>"
            f"<text x='{left + width + 6:.1f}' y='{top + row / 2 + 3:.1f}' {_INK}>{count:,}</text></g>"
        )
    return _svg(len(bars) * row + 2 * _TOP, f"{unit} by name", parts)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between two bounds, at most about so many; one value where the bounds are one."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _drawable(value: float) -> bool:
    # A loss that ran away ends the run, but what came before must still be drawn.
    return abs(value) < 1e150


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    return low - room, high + room


def _line(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    points = [(x(step), y(value), step, value) for step, value in line.points if _drawable(value)]
    path = " ".join(f"{across:.1f},{down:.1f}" for across, down, _, _ in points)
    look = "stroke-width='1' stroke-opacity='0.4'" if line.faint else "stroke-width='2' stroke-linejoin='round'"
    drawn = f"<polyline points='{path}' fill='none' stroke='{line.color}' {look}/>"
    if not line.dots and len(points) > 1:
        return drawn
    dots = (
        f"<circle cx='{across:.1f}' cy='{down:.1f}' r='3.5' fill='{line.color}'>"
        f"<title>{escaped(line.name)}, step {step:,}: {value:.4g}</title></circle>"
        for across, down, step, value in points
    )
    return drawn + "".join(dots)


def _legend(lines: Sequence[Line], unit: str) -> str:
    entries = [
        f"<span style='margin-right:14px'><span style='color:{line.color}'>●</span> {escaped(line.name)} "
        f"<b>{line.points[-1][1]:.4g}</b></span>"
        for line in lines
    ]
    return f"<div style='font-size:12px;padding-left:{_LEFT}px'>{''.join(entries)}<span>{escaped(unit)}</span></div>"


def _svg(height: int, told: str, parts: Sequence[str]) -> str:
    return (
        f"<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{escaped(told)}' "
        f"style='width:100%;max-width:{WIDTH}px;height:auto;display:block'>{''.join(parts)}</svg>"
    )


def _cut(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
