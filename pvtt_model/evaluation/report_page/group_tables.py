"""The tables of means by category, difficulty and what else the edits are grouped by."""

from __future__ import annotations

from html import escape

from pvtt_model.evaluation.report_page.groups import Cell, GroupTable
from pvtt_model.evaluation.report_page.matrix import metric_code
from pvtt_model.page import number, number_html, table


def group_table_html(found: GroupTable) -> str:
    head = [escape(found.name), "edits done", *(f"{metric_code(m.name)}<br>{m.direction} is better" for m in found.metrics)]
    rows = [[escape(g.name), number(f"{g.done} of {g.edits}"), *map(_cell, g.cells)] for g in found.groups]
    return f"<h3>By {escape(found.name)}</h3>" + table(head, rows, escaped=True)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return number("-")
    under = "" if cell.low is None else f"<small>{cell.low:.4g} to {cell.high:.4g}</small>"
    worst = "<small class='miss'>worst group</small>" if cell.worst else ""
    return number_html(f"{cell.mean:.4g}{under}{worst}")
