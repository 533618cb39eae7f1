"""The report as one HTML file that needs nothing else: the picture inside, light and dark, narrow screens, every text escaped."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from pvtt_model.evaluation.context_table import ContextTable, context_table
from pvtt_model.evaluation.gate import Verdict
from pvtt_model.evaluation.report import EditScores, Report
from pvtt_model.evaluation.report_markdown import ARROWS, counts_line, gate_cell

_STYLE = """
:root { color-scheme: light dark; --ink: #18181b; --pale: #60606b; --paper: #ffffff; --panel: #f4f4f5; --rule: #d8d8dd;
  --good: #15703c; --bad: #b42318; --warn: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #ededf0; --pale: #a1a1ab; --paper: #17171a; --panel: #222226; --rule: #3a3a41;
  --good: #6ad08f; --bad: #ff8a7d; --warn: #3d3210; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1440px; padding: 16px; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 8px 0; } h2 { font-size: 1.15rem; margin: 28px 0 8px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; min-width: 100%; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { background: var(--panel); white-space: nowrap; } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-family: ui-monospace, monospace; font-size: 0.9em; } .pale { color: var(--pale); }
td.prompt { min-width: 180px; overflow-wrap: anywhere; }
.pass { color: var(--good); font-weight: 600; } .miss { color: var(--bad); font-weight: 600; }
ul.warnings { list-style: none; padding: 0; margin: 12px 0; }
ul.warnings li { background: var(--warn); border-radius: 6px; padding: 8px 12px; margin: 6px 0; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--rule); border-radius: 6px; }
@media (max-width: 600px) { body { padding: 10px; font-size: 15px; } th, td { padding: 5px 7px; } }
"""


def report_html(report: Report, verdict: Verdict | None, contact_sheet_png: str | Path | None, path: str | Path) -> Path:
    """Write the page and return its path. Raises ValueError where the contact sheet is no PNG."""
    body = [f"<h1>Stage {escape(report.stage)}</h1>", f"<p>{escape(counts_line(report))}</p>"]
    body.append("<ul class='warnings'>" + "".join(f"<li>{escape(w)}</li>" for w in report.warnings) + "</ul>")
    if verdict is not None:
        body.append(_gate(verdict))
    context = context_table(report)
    if context is not None:
        body += ["<h2>The teacher in context</h2>", _context(context)]
    body += ["<h2>Metrics</h2>", _metrics(report, verdict)]
    if contact_sheet_png is not None:
        body += ["<h2>Edits</h2>", _picture(Path(contact_sheet_png))]
    body += ["<h2>Each edit</h2>", _edits(report)]
    title = escape(f"PVTT report: {report.stage}")
    meta = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    page = f"<!doctype html>\n<html lang='en'><head>{meta}<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n"
    path = Path(path)
    path.write_text(page + "\n".join(body) + "\n</body></html>\n", encoding="utf-8")
    return path


def _gate(verdict: Verdict) -> str:
    word = "<span class='pass'>passed</span>" if verdict.passed else "<span class='miss'>missed</span>"
    if not verdict.lines:
        return f"<h2>Gate: {word}</h2><p>{escape(verdict.message())}</p>"
    rows = []
    for n in verdict.lines:
        numbers = [_n(f"{n.op} {n.threshold:g}"), _n("-" if n.got is None else f"{n.got:.4g}")]
        rows.append([f"<code>{escape(n.metric)}</code>", *numbers, _mark(n.passed), escape(n.why)])
    return f"<h2>Gate: {word}</h2>" + _table(["metric", "wanted", "got", "", "why"], rows)


def _context(table: ContextTable) -> str:
    rows = [[escape(name), *(_n(cell) for cell in cells)] for name, *cells in table.rows]
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return _table(list(table.head), rows) + f"<ul class='pale'>{notes}</ul>"


def _metrics(report: Report, verdict: Verdict | None) -> str:
    if not report.metrics:
        return "<p>No metric was measured.</p>"
    rows = []
    for m in report.metrics:
        worst = f"<code>{escape(m.worst)}</code> {m.worst_value:.4g}" if m.worst is not None else ""
        gate = gate_cell(m.name, verdict)
        gate = f"<span class='{'pass' if 'miss' not in gate else 'miss'}'>{escape(gate)}</span>" if gate else ""
        note = f"<span class='pale'>{escape(m.note)}</span>"
        numbers = [_n(f"{m.value:.4g}"), _n(f"{m.std:.2g}"), _n(str(m.n))]
        rows.append([f"<code>{escape(m.name)}</code>", *numbers, ARROWS[m.direction], gate, escape(m.extractor or ""), worst, note])
    return _table(["metric", "mean", "std", "N", "direction", "gate", "extractor", "worst clip", "how"], rows)


def _edits(report: Report) -> str:
    names = [m.name for m in report.metrics]
    rows = [_edit(edit, names) for edit in report.per_edit]
    return _table(["clip", "prompt", "status", *[f"<code>{escape(n)}</code>" for n in names]], rows, escaped=True)


def _edit(edit: EditScores, names: list[str]) -> list[str]:
    status = "<span class='pass'>done</span>" if edit.status == "done" else f"<span class='miss'>{edit.status}</span> {escape(edit.reason)}"
    cells = [f"<code>{escape(edit.clip_key)}</code>", "<!--prompt-->" + escape(edit.prompt), status]
    for name in names:
        score = edit.scores.get(name)
        cells.append(_n("-" if score is None or score.value is None else f"{score.value:.4g}"))
    return cells


def _picture(path: Path) -> str:
    data = path.read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"contact sheet {path} is not a PNG. Write it with contact_sheet().")
    alt = "Contact sheet: source, mask, reference and edit of each clip"
    return f"<img alt='{alt}' src='data:image/png;base64,{base64.b64encode(data).decode()}'>"


def _n(text: str) -> str:
    return "<!--n-->" + escape(text)


def _mark(passed: bool) -> str:
    return f"<span class='{'pass' if passed else 'miss'}'>{'pass' if passed else 'miss'}</span>"


def _table(head: list[str], rows: list[list[str]], escaped: bool = False) -> str:
    """Cells are HTML already. A cell that starts with a class comment (<!--n-->) gets that class."""
    top = "".join(f"<th>{h if escaped else escape(h)}</th>" for h in head)
    return f"<div class='scroll'><table><tr>{top}</tr>" + "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows) + "</table></div>"


def _cell(html: str) -> str:
    for name in ("n", "prompt"):
        mark = f"<!--{name}-->"
        if html.startswith(mark):
            return f"<td class='{name}'>{html.removeprefix(mark)}</td>"
    return f"<td>{html}</td>"
