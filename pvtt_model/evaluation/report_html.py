"""The report as one HTML file that needs nothing else: the picture inside, light and dark, narrow screens, every text escaped."""

from __future__ import annotations

from html import escape
from pathlib import Path

from pvtt_model.evaluation.context_table import ContextTable, context_table
from pvtt_model.evaluation.gate import Verdict
from pvtt_model.evaluation.edit_scores import EditScores
from pvtt_model.evaluation.report import Report
from pvtt_model.evaluation.report_markdown import ARROWS, counts_line, gate_cell
from pvtt_model.page import number, picture, table, warnings, write_page


def report_html(report: Report, verdict: Verdict | None, contact_sheet_png: str | Path | None, path: str | Path) -> Path:
    """Write the page and return its path. Raises ValueError where the contact sheet is no PNG."""
    body = [f"<h1>Stage {escape(report.stage)}</h1>", f"<p>{escape(counts_line(report))}</p>"]
    body.append(warnings(report.warnings))
    if verdict is not None:
        body.append(_gate(verdict))
    context = context_table(report)
    if context is not None:
        body += ["<h2>The teacher in context</h2>", _context(context)]
    body += ["<h2>Metrics</h2>", _metrics(report, verdict)]
    if contact_sheet_png is not None:
        body += ["<h2>Edits</h2>", picture(contact_sheet_png, "Contact sheet: source, mask, reference and edit of each clip")]
    body += ["<h2>Each edit</h2>", _edits(report)]
    return write_page(path, f"PVTT report: {report.stage}", body)


def _gate(verdict: Verdict) -> str:
    word = "<span class='pass'>passed</span>" if verdict.passed else "<span class='miss'>missed</span>"
    if not verdict.lines:
        return f"<h2>Gate: {word}</h2><p>{escape(verdict.message())}</p>"
    rows = []
    for n in verdict.lines:
        numbers = [number(f"{n.op} {n.threshold:g}"), number("-" if n.got is None else f"{n.got:.4g}")]
        rows.append([f"<code>{escape(n.metric)}</code>", *numbers, _mark(n.passed), escape(n.why)])
    return f"<h2>Gate: {word}</h2>" + table(["metric", "wanted", "got", "", "why"], rows)


def _context(context: ContextTable) -> str:
    rows = [[escape(name), *(number(cell) for cell in cells)] for name, *cells in context.rows]
    notes = "".join(f"<li>{escape(note)}</li>" for note in context.notes)
    return table(list(context.head), rows) + f"<ul class='pale'>{notes}</ul>"


def _metrics(report: Report, verdict: Verdict | None) -> str:
    if not report.metrics:
        return "<p>No metric was measured.</p>"
    rows = []
    for m in report.metrics:
        worst = f"<code>{escape(m.worst)}</code> {m.worst_value:.4g}" if m.worst is not None else ""
        gate = gate_cell(m.name, verdict)
        gate = f"<span class='{'pass' if 'miss' not in gate else 'miss'}'>{escape(gate)}</span>" if gate else ""
        note = f"<span class='pale'>{escape(m.note)}</span>"
        numbers = [number(f"{m.value:.4g}"), number(f"{m.std:.2g}"), number(str(m.n))]
        rows.append([f"<code>{escape(m.name)}</code>", *numbers, ARROWS[m.direction], gate, escape(m.extractor or ""), worst, note])
    return table(["metric", "mean", "std", "N", "direction", "gate", "extractor", "worst clip", "how"], rows)


def _edits(report: Report) -> str:
    names = [m.name for m in report.metrics]
    rows = [_edit(edit, names) for edit in report.per_edit]
    return table(["clip", "prompt", "status", *[f"<code>{escape(n)}</code>" for n in names]], rows, escaped=True)


def _edit(edit: EditScores, names: list[str]) -> list[str]:
    status = "<span class='pass'>done</span>" if edit.status == "done" else f"<span class='miss'>{edit.status}</span> {escape(edit.reason)}"
    cells = [f"<code>{escape(edit.clip_key)}</code>", "<!--prompt-->" + escape(edit.prompt), status]
    for name in names:
        score = edit.scores.get(name)
        cells.append(number("-" if score is None or score.value is None else f"{score.value:.4g}"))
    return cells


def _mark(passed: bool) -> str:
    return f"<span class='{'pass' if passed else 'miss'}'>{'pass' if passed else 'miss'}</span>"
