"""A metric over stages and earlier releases: small charts (SVG), one a metric, with intervals and values; and the same as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from pvtt_model.evaluation.gate import Verdict
from pvtt_model.evaluation.report import Metric, Report
from pvtt_model.evaluation.report_page.beside import Past
from pvtt_model.evaluation.report_page.variants import ARROWS, gate_lines
from pvtt_model.page import number, table

_WIDTH, _HEIGHT = 320, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 18, 40
MOST_POINTS = 8


class Point(NamedTuple):
    kind: str  # release, stage, or this
    label: str
    title: str
    metric: Metric


def trend_points(report: Report, past: Sequence[Past], metric: Metric) -> list[Point]:
    """Earlier reports that hold the metric under this very name and extractor, oldest first, then this one. Others' numbers are other metrics."""
    found = []
    for its in past:
        then = its.metrics.get(metric.name)
        if then is not None and then.extractor == metric.extractor:
            found.append(Point(its.kind, its.label, its.title, then))
    return [*found[-(MOST_POINTS - 1) :], Point("this", report.stage, f"this report, stage {report.stage}", metric)]


def trend_html(report: Report, past: Sequence[Past], metrics: Sequence[Metric], verdict: Verdict | None) -> str:
    """The charts of the metrics that an earlier report holds too, or a sentence that says there is none."""
    points = {metric.name: trend_points(report, past, metric) for metric in metrics}
    shown = [metric for metric in metrics if len(points[metric.name]) > 1]
    if not shown:
        return "<p>The store holds no earlier stage or release with these metrics and extractors: there is no trend yet.</p>"
    charts = "".join(_figure(metric, points[metric.name], verdict) for metric in shown)
    said = (
        "<p class='pale'>Squares are the last stages of earlier releases, circles are stages of this run, the full one is this report. "
        "Bars are 95 % intervals over clips; dashed is the gate. Axes do not begin at zero. "
        "Only numbers of the same name and extractor stand in a row.</p>"
    )
    labels = list(dict.fromkeys((p.title, p.label) for its in points.values() for p in its))
    rows = [[escape(metric.name), *(number(_of(points[metric.name], title)) for title, _ in labels)] for metric in shown]
    same = f"<details><summary>The same as a table</summary>{table(['metric', *(title for title, _ in labels)], rows)}</details>"
    return f"{said}<div class='charts'>{charts}</div>{same}"


def _of(points: Sequence[Point], title: str) -> str:
    point = next((p for p in points if p.title == title), None)
    return "-" if point is None else value_of(point.metric)


def value_of(metric: Metric) -> str:
    return f"{metric.value:.4g}" + ("" if metric.low is None or metric.high is None else f" ({metric.low:.4g} to {metric.high:.4g})")


def _figure(metric: Metric, points: Sequence[Point], verdict: Verdict | None) -> str:
    line = next(iter(gate_lines(verdict, metric.name)), None)
    direction = ARROWS[metric.direction]
    caption = f"<figcaption><code>{escape(metric.name)}</code> <span class='pale'>{direction}</span></figcaption>"
    said = f"{metric.name}, {direction}: " + "; ".join(f"{p.title} {value_of(p.metric)}" for p in points)
    goal = None if line is None else (line.threshold, f"gate {line.op} {line.threshold:g}")
    return f"<figure>{caption}{_svg(points, goal, said)}</figure>"


def _svg(points: Sequence[Point], goal: tuple[float, str] | None, said: str) -> str:
    ends = [end for p in points for end in (p.metric.value, p.metric.low, p.metric.high) if end is not None] + ([goal[0]] if goal else [])
    low, high = min(ends), max(ends)
    pad = 0.12 * (high - low) or max(abs(high) * 0.05, 0.01)
    low, high = low - pad, high + pad
    inner = _HEIGHT - _TOP - _BOTTOM
    step = (_WIDTH - _LEFT - _RIGHT) / len(points)

    def y(value: float) -> float:
        return _TOP + inner * (high - value) / (high - low)

    xs = [_LEFT + step * (i + 0.5) for i in range(len(points))]
    parts = [_grid(low, high, y)]
    if goal is not None:
        at = y(goal[0])
        parts.append(f"<line class='goal' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{at:.1f}' y2='{at:.1f}'/>")
        parts.append(f"<text class='goal' x='{_WIDTH - _RIGHT}' y='{at - 4:.1f}' text-anchor='end'>{escape(goal[1])}</text>")
    run = [(x, y(p.metric.value)) for x, p in zip(xs, points, strict=True) if p.kind != "release"]
    if len(run) > 1:
        parts.append(f"<polyline class='run' points='{' '.join(f'{x:.1f},{v:.1f}' for x, v in run)}'/>")
    parts += [
        _mark(p, x, y(p.metric.value), _bar(p.metric, x, y), step, i == len(points) - 1) for i, (p, x) in enumerate(zip(points, xs, strict=True))
    ]
    return f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{escape(said, quote=True)}'>{''.join(parts)}</svg>"


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Two to five round values between low and high, with their text."""
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.7)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [(i * step, f"{i * step:.{decimals}f}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(low: float, high: float, y: Callable[[float], float]) -> str:
    lines = []
    for value, text in ticks(low, high):
        at = y(value)
        lines.append(f"<line class='grid' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{at:.1f}' y2='{at:.1f}'/>")
        lines.append(f"<text x='{_LEFT - 5}' y='{at + 3.5:.1f}' text-anchor='end'>{text}</text>")
    return "".join(lines)


def _bar(metric: Metric, x: float, y: Callable[[float], float]) -> str:
    if metric.low is None or metric.high is None:
        return ""
    top, bottom = y(metric.high), y(metric.low)
    caps = "".join(f"M{x - 4:.1f} {at:.1f}h8" for at in (top, bottom))
    return f"<path class='bar' d='M{x:.1f} {top:.1f}V{bottom:.1f}{caps}'/>"


def _mark(point: Point, x: float, at: float, bar: str, step: float, last: bool) -> str:
    if point.kind == "release":
        mark = f"<rect class='mark' x='{x - 4.5:.1f}' y='{at - 4.5:.1f}' width='9' height='9'/>"
    else:
        mark = f"<circle class='mark{' this' if point.kind == 'this' else ''}' cx='{x:.1f}' cy='{at:.1f}' r='5'/>"
    most = max(4, int(step / 6.2))
    label = point.label if len(point.label) <= most else point.label[: most - 1] + "…"
    under = f"<text class='{'this' if point.kind == 'this' else ''}' x='{x:.1f}' y='{_HEIGHT - 22}' text-anchor='middle'>{escape(label)}</text>"
    value = f"<text class='value' x='{x:.1f}' y='{_HEIGHT - 7}' text-anchor='middle'>{point.metric.value:.3g}</text>"
    return f"<g><title>{escape(point.title)}: {value_of(point.metric)}</title>{bar}{mark}{under}{value}</g>"
