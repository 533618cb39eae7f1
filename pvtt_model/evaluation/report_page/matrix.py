"""The matrix: a row a metric, with its interval, N and extractor, and beside it what it is to be read by."""

from __future__ import annotations

from html import escape

from pvtt_model.evaluation.gate import Line, Verdict
from pvtt_model.evaluation.report import Metric, Report
from pvtt_model.evaluation.report_page.variants import ARROWS, VARIANTS, Row, matrix_rows
from pvtt_model.page import marked, number_html, table

_SIGNS = {"higher": "&uarr; ", "lower": "&darr; ", "context": ""}


def matrix_html(report: Report, verdict: Verdict | None) -> str:
    rows = matrix_rows(report)
    if not rows:
        return "<p>No metric was measured.</p>"
    suffixes = [suffix for suffix in VARIANTS if any(suffix in row.beside for row in rows)]
    head = ["metric, extractor", "mean, 95 % interval", "N", "better", "gate", *(VARIANTS[s] for s in suffixes), "worst edit", "how it is measured"]
    return table(head, [_row(row, suffixes, verdict) for row in rows])


def interval(metric: Metric) -> str:
    return "" if metric.low is None or metric.high is None else f"{metric.low:.4g} to {metric.high:.4g}"


def _row(row: Row, suffixes: list[str], verdict: Verdict | None) -> list[str]:
    edit = row.edit
    example = edit or next(iter(row.beside.values()))
    name = f"<code>{escape(edit.name if edit else row.family)}</code>"
    extractor = f"<small>{escape(example.extractor)}</small>" if example.extractor else ""
    n = "" if edit is None else str(edit.n)
    cells = [name + extractor, _value(edit, None), number_html(n), _SIGNS[example.direction] + ARROWS[example.direction]]
    cells.append("" if edit is None else "<br>".join(_gate(line) for line in _lines(verdict, edit.name)))
    cells += [_value(row.beside.get(suffix), edit) for suffix in suffixes]
    worst = ""
    if edit is not None and edit.worst is not None:
        worst = f"<code>{escape(edit.worst)}</code><small>{'' if edit.worst_value is None else f'{edit.worst_value:.4g}'}</small>"
    return [*cells, worst, f"<!--note-->{escape(example.note)}"]


def _value(metric: Metric | None, edit: Metric | None) -> str:
    """Mean and interval; N too where it is not the edit's."""
    if metric is None:
        return number_html("<span class='pale'>-</span>")
    under = [interval(metric)] if interval(metric) else []
    if edit is not None and metric.n != edit.n:
        under.append(f"N {metric.n}")
    said = f"{metric.name}: standard deviation {metric.std:.2g} over {metric.n}"
    return number_html(f"<span title='{escape(said, quote=True)}'>{metric.value:.4g}</span>" + "".join(f"<small>{line}</small>" for line in under))


def _lines(verdict: Verdict | None, name: str) -> list[Line]:
    """The gate's lines on this metric; a judge's bracket may be left out in a gate on identity."""
    short = name.partition("[")[0] if name.startswith("identity_") else name
    return [] if verdict is None else [line for line in verdict.lines if line.metric in (name, short)]


def _gate(line: Line) -> str:
    return marked(line.passed, f"{line.op} {line.threshold:g}: {'pass' if line.passed else 'miss'}")
