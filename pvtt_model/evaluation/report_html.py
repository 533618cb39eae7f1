"""The report as one HTML file that works offline: videos, pictures, tables and downloads inside, every text escaped. Its parts: report_page/."""

from __future__ import annotations

from html import escape
from pathlib import Path

from pvtt_model.evaluation.context_table import ContextTable, context_table
from pvtt_model.evaluation.gate import Verdict
from pvtt_model.evaluation.report import Report
from pvtt_model.evaluation.report_page.behind import lineage_html, settings_html
from pvtt_model.evaluation.report_page.beside import Beside
from pvtt_model.evaluation.report_page.cards import BUDGET_BYTES, MOST_CARDS, cards_html
from pvtt_model.evaluation.report_page.downloads import downloads_html
from pvtt_model.evaluation.report_page.edit_table import edit_table_html
from pvtt_model.evaluation.report_page.group_tables import group_table_html
from pvtt_model.evaluation.report_page.groups import group_tables
from pvtt_model.evaluation.report_page.matrix import matrix_html
from pvtt_model.evaluation.report_page.top import checks_html, gate_html, headline_html
from pvtt_model.evaluation.report_page.trend import trend_html
from pvtt_model.evaluation.report_page.variants import main_metrics
from pvtt_model.evaluation.report_page.worst_first import worst_first
from pvtt_model.page import number, picture, table, warnings, write_page

_PARTS = Path(__file__).parent / "report_page"
MOST_GROUP_METRICS = 8


def report_html(
    report: Report,
    verdict: Verdict | None,
    contact_sheet_png: str | Path | None,
    path: str | Path,
    beside: Beside | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> Path:
    """Write the page and return its path. beside: what the store knows more; without it the page has the report alone.

    budget_bytes: of the videos inside, in base64. Raises ValueError where the contact sheet is no PNG.
    """
    beside = beside or Beside()
    main = main_metrics(report, verdict)
    cases = worst_first(report, main)
    cards = cards_html(cases, beside.seen, main, beside.get_videos, budget_bytes)
    sections: dict[str, str] = {}
    if verdict is not None:
        sections["Gate"] = gate_html(verdict)
    sections["Metrics"] = matrix_html(report, verdict)
    context = context_table(report)
    if context is not None:
        sections["The teacher in context"] = _context(context)
    sections["Sanity checks"] = checks_html(report)
    groups = group_tables(report, main[:MOST_GROUP_METRICS])
    if groups:
        sections["Groups"] = "".join(map(group_table_html, groups))
    sections["Trend"] = trend_html(report, beside.past, main, verdict)
    sections["Worst edits first"] = cards.html
    if contact_sheet_png is not None:
        sheet = picture(contact_sheet_png, "Contact sheet: source, mask, reference and edit of each clip")
        sections["Contact sheet"] = f"<details><summary>The first edits at a glance</summary>{sheet}</details>"
    sections["Each edit"] = downloads_html(report) + edit_table_html(report, cases, main, min(len(cases), MOST_CARDS))
    sections["Lineage"] = f"<details><summary>Artifacts, commits, libraries</summary>{lineage_html(beside)}</details>"
    sections["Settings"] = f"<details><summary>What was asked for</summary>{settings_html(report, beside)}</details>"
    body = [headline_html(report, verdict, beside.name), warnings(report.warnings), *_laid_out(sections)]
    style, script = (_PARTS / "page.css").read_text("utf-8"), (_PARTS / "page.js").read_text("utf-8")
    return write_page(path, f"PVTT report: {report.stage}", body, style, script)


def _laid_out(sections: dict[str, str]) -> list[str]:
    links = "".join(f"<a href='#{_anchor(title)}'>{escape(title)}</a>" for title in sections)
    found = [f"<nav aria-label='sections'>{links}</nav>"]
    return found + [f"<section id='{_anchor(title)}'><h2>{escape(title)}</h2>{html}</section>" for title, html in sections.items()]


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _context(context: ContextTable) -> str:
    rows = [[escape(name), *(number(cell) for cell in cells)] for name, *cells in context.rows]
    notes = "".join(f"<li>{escape(note)}</li>" for note in context.notes)
    return table(list(context.head), rows) + f"<ul class='pale'>{notes}</ul>"
