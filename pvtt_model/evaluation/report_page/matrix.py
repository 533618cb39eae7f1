"""The matrix: a row a metric, with its interval, N and extractor, and beside it what it is to be read by."""

from __future__ import annotations

from html import escape

from pvtt_model.evaluation.gate import Line, Verdict
from pvtt_model.evaluation.report import Metric, Report
from pvtt_model.evaluation.report_page.variants import VARIANTS, Row, gate_lines, matrix_rows
from pvtt_model.page import marked, number_html, table

_BETTER = {"higher": "&uarr; higher", "lower": "&darr; lower", "context": "context"}


def matrix_html(report: Report, verdict: Verdict | None) -> str:
    rows = matrix_rows(report)
    if not rows:
        return "<p>No metric was measured.</p>"
    suffixes = [suffix for suffix in VARIANTS if any(suffix in row.beside for row in rows)]
    gated = verdict is not None and bool(verdict.lines)
    gate = ["gate"] if gated else []
    head = ["metric, extractor", "mean, 95 % interval", "N", "better", *gate, *(VARIANTS[s] for s in suffixes), "worst edit"]
    notes = [[metric_code(row.edit.name if row.edit else row.family), escape(_example(row).note)] for row in rows]
    how = f"<details><summary>How each is measured</summary>{table(['metric', 'how'], notes)}</details>"
    return table(head, [_row(row, suffixes, verdict, gated) for row in rows]) + how


def metric_code(name: str) -> str:
    """The name, which may break before the stand-in's bracket alone."""
    bare, bracket, rest = name.partition("[")
    return f"<code>{escape(bare)}</code>" + (f"<wbr><code>{escape(bracket + rest)}</code>" if bracket else "")


def interval(metric: Metric) -> str:
    return "" if metric.low is None or metric.high is None else f"{metric.low:.4g} to {metric.high:.4g}"


def _row(row: Row, suffixes: list[str], verdict: Verdict | None, gated: bool) -> list[str]:
    edit = row.edit
    example = _example(row)
    name = metric_code(edit.name if edit else row.family)
    extractor = f"<small>{escape(example.extractor)}</small>" if example.extractor else ""
    n = "" if edit is None else str(edit.n)
    cells = [name + extractor, _value(edit, None), number_html(n), f"<!--dir-->{_BETTER[example.direction]}"]
    if gated:
        cells.append("" if edit is None else "<br>".join(_gate(line) for line in gate_lines(verdict, edit.name)))
    cells += [_value(row.beside.get(suffix), edit) for suffix in suffixes]
    worst = ""
    if edit is not None and edit.worst is not None:
        worst = f"<code>{escape(edit.worst)}</code><small>{'' if edit.worst_value is None else f'{edit.worst_value:.4g}'}</small>"
    return [*cells, worst]


def _example(row: Row) -> Metric:
    return row.edit or next(iter(row.beside.values()))


def _value(metric: Metric | None, edit: Metric | None) -> str:
    """Mean and interval; N too where it is not the edit's."""
    if metric is None:
        return number_html("<span class='pale'>-</span>")
    under = [interval(metric)] if interval(metric) else []
    if edit is not None and metric.n != edit.n:
        under.append(f"N {metric.n}")
    said = f"{metric.name}: standard deviation {metric.std:.2g} over {metric.n}"
    return number_html(f"<span title='{escape(said, quote=True)}'>{metric.value:.4g}</span>" + "".join(f"<small>{line}</small>" for line in under))


def _gate(line: Line) -> str:
    return marked(line.passed, f"{line.op} {line.threshold:g}: {'pass' if line.passed else 'miss'}")
