"""The table of all edits: sorted by any column, filtered by status and text, columns shown and hidden. Without a script it is a plain table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from pvtt_model.evaluation.edit_scores import EditScores
from pvtt_model.evaluation.report import Metric, Report
from pvtt_model.evaluation.report_page.downloads import columns_of
from pvtt_model.evaluation.report_page.worst_first import Case
from pvtt_model.page import marked

_FACTS = ("place", "clip", "reference", "prompt", "status", "reason")
_HIDDEN_FACTS = ("reference",)
_STATUSES = ("done", "failed", "quarantined", "missing")


def edit_table_html(report: Report, cases: Sequence[Case], main: Sequence[Metric], carded: int) -> str:
    """cases: worst first. main: the metrics whose columns are shown at first. carded: how many of the cases have a card to link to."""
    groups, metrics = columns_of(report)
    shown = {metric.name for metric in main}
    hidden = {name for name in (*_HIDDEN_FACTS, *metrics) if name not in shown}
    columns = [*_FACTS, *groups, *metrics]
    away = [i for i, name in enumerate(columns) if name in hidden and (i < len(_FACTS) or i >= len(_FACTS) + len(groups))]
    head = "".join(_head(name, i in away, i >= len(_FACTS) + len(groups)) for i, name in enumerate(columns))
    rows = "".join(_row(place, case.edit, groups, metrics, away, place <= carded) for place, case in enumerate(cases, 1))
    table = f"<table id='edits'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    scroll = f"<div class='scroll tall' tabindex='0' role='region' aria-label='table of edits'>{table}</div>"
    return _filters(len(cases), _used(report)) + _chooser(columns, away) + scroll


def _head(name: str, away: bool, metric: bool) -> str:
    text = f"<code>{escape(name)}</code>" if metric else escape(name)
    first = " aria-sort='ascending'" if name == "place" and not metric else ""
    return f"<th scope='col'{first}{' hidden' if away else ''}><button type='button' class='sort'>{text}</button></th>"


def _row(place: int, edit: EditScores, groups: Sequence[str], metrics: Sequence[str], away: Collection[int], linked: bool) -> str:
    clip = f"<code>{escape(edit.clip_key)}</code>"
    clip = f"<a href='#edit-{place}'>{clip}</a>" if linked else clip
    cells = [
        ("n", place, str(place)),
        ("", None, clip),
        ("", None, f"<code>{escape(edit.reference_key)}</code>"),
        ("prompt", None, escape(edit.prompt)),
        ("", None, marked(edit.status == "done", edit.status)),
        ("prompt" if edit.reason else "", None, escape(edit.reason)),
        *(("", None, escape(edit.groups.get(name, ""))) for name in groups),
        *(_score(edit, name) for name in metrics),
    ]
    return f"<tr data-status='{edit.status}'>" + "".join(_cell(i in away, *cell) for i, cell in enumerate(cells)) + "</tr>"


def _score(edit: EditScores, name: str) -> tuple[str, float | str, str]:
    score = edit.scores.get(name)
    if score is None or score.value is None:
        return "n", "", "-"
    return "n", score.value, f"{score.value:.4g}"


def _cell(away: bool, kind: str, key: float | str | None, html: str) -> str:
    """key: what the column is sorted by; None: by its text; '': nothing, which stays last."""
    sort = "" if key is None else f" data-v='{key!r}'" if key != "" else " data-v=''"
    return f"<td{f' class={kind}' if kind else ''}{sort}{' hidden' if away else ''}>{html}</td>"


def _used(report: Report) -> list[str]:
    return [status for status in _STATUSES if any(edit.status == status for edit in report.per_edit)]


def _filters(count: int, statuses: Sequence[str]) -> str:
    options = "".join(f"<option>{status}</option>" for status in statuses)
    return (
        "<div class='filters' hidden><label>status <select id='status'><option value=''>all</option>"
        f"{options}</select></label><label>text <input id='text' type='search' size='18'></label>"
        f"<output id='count' aria-live='polite'>{count} of {count} edits</output></div>"
    )


def _chooser(columns: Sequence[str], away: Collection[int]) -> str:
    boxes = "".join(
        f"<label><input type='checkbox' value='{i}'{'' if i in away else ' checked'}> {escape(name)}</label>" for i, name in enumerate(columns)
    )
    said = f"Columns: {len(columns) - len(away)} of {len(columns)} shown"
    return f"<details class='columns' id='columns' hidden><summary>{said}</summary><div>{boxes}</div></details>"
