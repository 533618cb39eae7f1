"""The teacher in context: identity and in-product PSNR of the edit beside what they are worth without it, in one small table."""

from __future__ import annotations

from typing import NamedTuple

from pvtt_model.evaluation.report import Report

COLUMNS = ("teacher", "no reference", "wrong reference", "base", "source unchanged", "pasted", "flat grey", "truth round trip")
_SUFFIXES = ("", "_no_reference", "_wrong_reference", "_base", "_source", "_pasted", "_flat", "_ceiling")
_NOT_SAMPLED = ("no reference", "wrong reference", "base")


class ContextTable(NamedTuple):
    """head and cells are text; a cell that was not measured is '-', and a note says why."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def context_table(report: Report) -> ContextTable | None:
    """The table, or None where neither identity nor in-product PSNR was measured."""
    found = {family: _row(report, family) for family in ("identity_top1", "in_product_psnr_db")}
    names = {"identity_top1": "identity top-1", "in_product_psnr_db": "in-product PSNR, dB"}
    rows = [(names[family], *cells) for family, cells in found.items() if cells is not None]
    if not rows:
        return None
    return ContextTable(("", *COLUMNS), tuple(rows), tuple(_notes(report, found)))


def _row(report: Report, family: str) -> list[str] | None:
    if report.family(family) is None:
        return None
    cells = []
    for suffix in _SUFFIXES:
        if family == "identity_top1" and suffix == "_ceiling":
            suffix = "_truth"  # what the judge says of the real frames
        metric = report.family(family + suffix)
        shown = "{:.0%}" if family == "identity_top1" else "{:.2f}"
        value = "-" if metric is None else shown.format(metric.value)
        if metric is not None and metric.low is not None and not suffix:
            value += f" ({shown.format(metric.low)} to {shown.format(metric.high)})"
        cells.append(value)
    return cells


def _notes(report: Report, found: dict[str, list[str] | None]) -> list[str]:
    notes = []
    identity, psnr, gap = report.family("identity_top1"), report.family("in_product_psnr_db"), report.family("gap_closed")
    shown = report.family("identity_wrong_reference_shown")
    if identity is not None:
        notes.append(f"Identity, of {identity.n} edits: {identity.note}; judge {identity.extractor}. In brackets the 95 % bootstrap interval.")
        notes.append("Identity under 'truth round trip' is of the right edit's real frames; of flat grey it is not asked.")
    if shown is not None:
        notes.append(f"With the wrong reference, {shown.value:.0%} of {shown.n} edits show the wrong reference's product.")
    if psnr is not None:
        notes.append(f"PSNR: mean over {psnr.n} edits, inside the right edit's product.")
    if gap is not None:
        notes.append(f"Of the PSNR gap between base and round trip, {gap.value:.0%} is closed.")
    absent = [c for i, c in enumerate(COLUMNS) if c in _NOT_SAMPLED and all(row is None or row[i] == "-" for row in found.values())]
    if absent:
        notes.append(f"Not sampled (edit.baselines, or too few products): {', '.join(absent)}.")
    if psnr is None:
        notes.append("In-product PSNR not measured: the right edit of these clips is not known.")
    if identity is None:
        notes.append("Identity not measured: the stage names no judge (evaluate.judge), or it could not judge; see the warnings.")
    return notes
