"""Which metrics are one another's: of the edit itself, composited, and of what it is to be read beside.

clip_i[x], clip_i_composited[x] and clip_i_source[x] are one row of the matrix; bg_psnr_db and bg_psnr_ceiling_db are another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pvtt_model.evaluation.gate import Line, Verdict
from pvtt_model.evaluation.report import Metric, Report
from pvtt_model.evaluation.weighted_score import PARTS

#: Suffix of a metric's name -> what it is of, in words; in the order of the matrix's columns.
VARIANTS = {
    "raw": "raw edit",
    "composited": "composited",
    "source": "source unchanged",
    "pasted": "reference pasted",
    "frozen": "frozen video",
    "wrong_reference": "wrong reference",
    "no_reference": "no reference",
    "base": "base model",
    "flat": "flat grey",
    "ceiling": "VAE ceiling",
    "truth": "right edit",
}
ARROWS = {"higher": "higher is better", "lower": "lower is better", "context": "context"}
_NAME = re.compile(rf"(?P<stem>.+?)_(?P<variant>{'|'.join(VARIANTS)})(?P<unit>_db)?(?P<by>\[.*\])?", re.DOTALL)


class Row(NamedTuple):
    """One family of metrics. edit: of the edit itself (the bare name, or its _raw), None where only what stands beside it was measured."""

    family: str
    edit: Metric | None
    beside: Mapping[str, Metric]  # by suffix


def split_name(name: str) -> tuple[str, str]:
    """(family, suffix): 'bg_psnr_ceiling_db' is ('bg_psnr_db', 'ceiling'), 'clip_i_source[x]' ('clip_i[x]', 'source'), 'clip_i' ('clip_i', '')."""
    found = _NAME.fullmatch(name)
    if found is None:
        return name, ""
    return found["stem"] + (found["unit"] or "") + (found["by"] or ""), found["variant"]


def matrix_rows(report: Report) -> list[Row]:
    """Every metric of the report in one row, families in the report's order. A _raw that repeats the bare name's value is that metric again."""
    families: dict[str, dict[str, Metric]] = {}
    for metric in report.metrics:
        family, suffix = split_name(metric.name)
        families.setdefault(family, {})[suffix] = metric
    rows = []
    for family, found in families.items():
        bare, raw = found.pop("", None), found.get("raw")
        if raw is not None and (bare is None or bare.value == raw.value):
            found.pop("raw")
        rows.append(Row(family, bare or raw, found))
    return rows


def main_metrics(report: Report, verdict: Verdict | None, most: int = 12) -> list[Metric]:
    """What to look at first, of the edit itself and with a better direction: the gate's, then the weighted score and its parts, then the others."""
    edits = [row.edit for row in matrix_rows(report) if row.edit is not None and row.edit.direction != "context"]
    gated = [] if verdict is None else [line.metric for line in verdict.lines]
    known = [*gated, "weighted_score", "identity_top1", *(part.metric for part in PARTS), "in_product_psnr_db"]
    return sorted(edits, key=lambda metric: _place(metric.name, known))[:most]


def gate_lines(verdict: Verdict | None, name: str) -> list[Line]:
    """The gate's lines on the metric. A gate on identity may leave the judge's bracket out; any other stand-in does not count as the bare name."""
    names = (name, name.partition("[")[0]) if name.startswith("identity_") else (name,)
    return [] if verdict is None else [line for line in verdict.lines if line.metric in names]


def _place(name: str, known: Sequence[str]) -> int:
    return next((i for i, wanted in enumerate(known) if name == wanted or name.partition("[")[0] == wanted), len(known))
