"""The report as Markdown, for a Prefect artifact and the release's card."""

from __future__ import annotations

from pvtt_model.evaluation.context_table import ContextTable, context_table
from pvtt_model.evaluation.gate import Verdict
from pvtt_model.evaluation.report import Report

ARROWS = {"higher": "higher is better", "lower": "lower is better", "context": "context"}


def report_markdown(report: Report, verdict: Verdict | None = None) -> str:
    """Counts, warnings, the gate, the metric table and what went wrong with which edit."""
    parts = [f"# Report of stage `{report.stage}`", counts_line(report)]
    if report.warnings:
        parts.append("\n".join(f"- **Warning:** {escape_cell(w)}" for w in report.warnings))
    if verdict is not None:
        parts += [f"## Gate: {'passed' if verdict.passed else 'missed'}", verdict.markdown()]
    context = context_table(report)
    if context is not None:
        parts += ["## The teacher in context", _context(context)]
    parts += ["## Metrics", metric_table(report, verdict)]
    lost = [e for e in report.per_edit if e.status != "done"]
    if lost:
        rows = "\n".join(f"| {code_cell(e.clip_key)} | {e.status} | {escape_cell(e.reason)} |" for e in lost)
        parts += ["## Edits that are not in the means", "| clip | what | reason |\n|---|---|---|\n" + rows]
    return "\n\n".join(parts) + "\n"


def _context(table: ContextTable) -> str:
    lines = [" | ".join(escape_cell(cell) for cell in row) for row in (table.head, *table.rows)]
    rule = "|".join(["---"] * len(table.head))
    head, *rows = [f"| {line} |" for line in lines]
    return "\n".join([head, f"|{rule}|", *rows, "", *(f"- {escape_cell(note)}" for note in table.notes)])


def counts_line(report: Report) -> str:
    return f"{report.edits} edits: {report.edits_done} done, {report.edits_failed} failed, {report.edits_quarantined} quarantined."


def metric_table(report: Report, verdict: Verdict | None = None) -> str:
    """Metric, mean, deviation, N, direction, extractor, gate, worst clip."""
    if not report.metrics:
        return "No metric was measured."
    head = "| metric | mean | std | N | direction | extractor | gate | worst clip |\n|---|---|---|---|---|---|---|---|\n"
    rows = []
    for m in report.metrics:
        worst = f"{code_cell(m.worst)} {m.worst_value:.4g}" if m.worst is not None else ""
        cells = [code_cell(m.name), f"{m.value:.4g}", f"{m.std:.2g}", str(m.n), ARROWS[m.direction], escape_cell(m.extractor or "")]
        rows.append("| " + " | ".join([*cells, gate_cell(m.name, verdict), worst]) + " |")
    return head + "\n".join(rows)


def gate_cell(name: str, verdict: Verdict | None) -> str:
    """'> 0.75: pass', or '' for a metric without a threshold."""
    lines = [] if verdict is None else [n for n in verdict.lines if n.metric == name]
    return ", ".join(f"{n.op} {n.threshold:g}: {'pass' if n.passed else 'miss'}" for n in lines)


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
