"""The report as Markdown, for a Prefect artifact and the release's card."""

from __future__ import annotations

from collections.abc import Sequence

from pvtt_model.evaluation.context_table import ContextTable, context_table
from pvtt_model.evaluation.gate import Verdict
from pvtt_model.evaluation.report import Metric, Report
from pvtt_model.evaluation.report_page.beside import Past
from pvtt_model.evaluation.report_page.groups import Cell, GroupTable, group_tables
from pvtt_model.evaluation.report_page.headline import headline
from pvtt_model.evaluation.report_page.trend import trend_points, value_of
from pvtt_model.evaluation.report_page.variants import ARROWS, VARIANTS, Row, gate_lines, main_metrics, matrix_rows

MOST_COLUMNS = 6  # metrics of the tables of groups and of the trend: a page of Prefect is narrow


def report_markdown(report: Report, verdict: Verdict | None = None, past: Sequence[Past] = ()) -> str:
    """Headline, warnings, gate, sanity checks, metrics, groups, trend, and what went wrong with which edit. past: earlier reports, oldest first."""
    parts = [f"# Report of stage {code_cell(report.stage)}", headline_markdown(report, verdict)]
    if report.warnings:
        parts.append("\n".join(f"- **Warning:** {escape_cell(w)}" for w in report.warnings))
    if verdict is not None:
        parts += [f"## Gate: {'passed' if verdict.passed else 'missed'}", verdict.markdown()]
    if report.checks:
        parts += ["## Sanity checks", _checks(report)]
    parts += ["## Metrics", matrix_markdown(report, verdict)]
    context = context_table(report)
    if context is not None:
        parts += ["## The teacher in context", _context(context)]
    main = main_metrics(report, verdict)
    for found in group_tables(report, main[:MOST_COLUMNS]):
        parts += [f"## By {escape_cell(found.name)}", _groups(found)]
    trend = _trend(report, past, main[:MOST_COLUMNS])
    if trend:
        parts += ["## Trend", trend]
    lost = [e for e in report.per_edit if e.status != "done"]
    if lost:
        rows = [[code_cell(e.clip_key), e.status, escape_cell(e.reason)] for e in lost]
        parts += ["## Edits that are not in the means", _table(["clip", "what", "reason"], rows)]
    return "\n\n".join(parts) + "\n"


def headline_markdown(report: Report, verdict: Verdict | None) -> str:
    """Edits, sanity checks, gate: what is bad in bold, each line with its word."""
    words = {True: "ok", False: "bad", None: "open"}
    lines = [(words[said.good], escape_cell(said.text), said.good is False) for said in headline(report, verdict)]
    return "\n".join(f"- {word}: " + (f"**{text}**" if bad else text) for word, text, bad in lines)


def counts_line(report: Report) -> str:
    missing = f", {report.edits_missing} missing" if report.edits_missing else ""
    return f"{report.edits} edits: {report.edits_done} done, {report.edits_failed} failed, {report.edits_quarantined} quarantined{missing}."


def metric_table(report: Report, verdict: Verdict | None = None) -> str:
    """Metric, mean, deviation, N, direction, extractor, gate, worst clip."""
    if not report.metrics:
        return "No metric was measured."
    rows = []
    for m in report.metrics:
        worst = f"{code_cell(m.worst)} {m.worst_value:.4g}" if m.worst is not None else ""
        cells = [code_cell(m.name), f"{m.value:.4g}", f"{m.std:.2g}", str(m.n), ARROWS[m.direction], escape_cell(m.extractor or "")]
        rows.append([*cells, gate_cell(m.name, verdict), worst])
    return _table(["metric", "mean", "std", "N", "direction", "extractor", "gate", "worst clip"], rows)


def matrix_markdown(report: Report, verdict: Verdict | None = None) -> str:
    """A row a family of metrics: the edit's mean with its interval, and what it is to be read beside."""
    rows = matrix_rows(report)
    if not rows:
        return "No metric was measured."
    suffixes = [suffix for suffix in VARIANTS if any(suffix in row.beside for row in rows)]
    head = ["metric", "mean (95 %)", "N", "better", "gate", *(VARIANTS[s] for s in suffixes), "extractor", "worst clip"]
    return _table(head, [_matrix_row(row, suffixes, verdict) for row in rows])


def gate_cell(name: str, verdict: Verdict | None) -> str:
    """'> 0.75: pass', or '' for a metric without a threshold."""
    return ", ".join(f"{n.op} {n.threshold:g}: {'pass' if n.passed else '**miss**'}" for n in gate_lines(verdict, name))


def code_cell(text: str) -> str:
    """Text as a code span that stays in its cell."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def escape_cell(text: str) -> str:
    """Text that stays in its cell and is not read as HTML, emphasis or a link."""
    text = " ".join(text.split()).replace("`", "'")
    for char in "\\|[]*_":
        text = text.replace(char, "\\" + char)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _matrix_row(row: Row, suffixes: Sequence[str], verdict: Verdict | None) -> list[str]:
    edit = row.edit
    example = edit or next(iter(row.beside.values()))
    cells = [code_cell(edit.name if edit else row.family), value_of(edit) if edit else "-", str(edit.n) if edit else ""]
    cells += [ARROWS[example.direction], gate_cell(edit.name, verdict) if edit else ""]
    cells += [f"{row.beside[suffix].value:.4g}" if suffix in row.beside else "-" for suffix in suffixes]
    worst = "" if edit is None or edit.worst is None else code_cell(edit.worst)
    return [*cells, escape_cell(example.extractor or ""), worst]


def _checks(report: Report) -> str:
    rows = [[code_cell(c.name), f"**{c.status}**" if c.status == "failed" else c.status, escape_cell(c.said)] for c in report.checks]
    return _table(["check", "outcome", "what was found"], rows)


def _groups(found: GroupTable) -> str:
    head = [escape_cell(found.name), "edits done", *(code_cell(metric.name) for metric in found.metrics)]
    return _table(head, [[escape_cell(g.name), f"{g.done} of {g.edits}", *map(_group_cell, g.cells)] for g in found.groups])


def _group_cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    between = "" if cell.low is None else f" ({cell.low:.4g} to {cell.high:.4g})"
    return f"{cell.mean:.4g}{between}" + (", worst" if cell.worst else "")


def _trend(report: Report, past: Sequence[Past], metrics: Sequence[Metric]) -> str:
    """A row a report, oldest first; '' where no earlier one holds any of the metrics."""
    by_metric = {m.name: {p.title: value_of(p.metric) for p in trend_points(report, past, m)} for m in metrics}
    titles = [p.title for p in past if any(p.title in its for its in by_metric.values())]
    if not titles:
        return ""
    rows = [[escape_cell(title), *(its.get(title, "-") for its in by_metric.values())] for title in titles]
    rows.append(["**this report**", *(value_of(m) for m in metrics)])
    return _table(["report", *map(code_cell, by_metric)], rows)


def _context(table: ContextTable) -> str:
    rows = [[escape_cell(cell) for cell in row] for row in table.rows]
    return "\n".join([_table([escape_cell(cell) for cell in table.head], rows), "", *(f"- {escape_cell(note)}" for note in table.notes)])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are escaped already."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
