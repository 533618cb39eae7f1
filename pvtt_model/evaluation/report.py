"""The report of one stage: every metric with its direction, N and extractor, every edit accounted for. Plain JSON, no NaN, no infinity."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from pvtt_model.evaluation.confidence import bootstrap_interval
from pvtt_model.evaluation.edit_scores import Check, Direction, EditScores, Finite, Frozen, Score
from pvtt_model.evaluation.in_product_psnr import gap_closed
from pvtt_model.evaluation.weighted_score import weighted_score
from pvtt_model.specs import EvalSpec

#: An edit whose motion is under this share of its source's is called near-static. Ours, for a warning only.
STILL_SHARE = 0.2


class Metric(Frozen):
    """One metric over the edits that have it. std is the population's (0 for one edit); worst is the clip to look at first."""

    name: str
    value: Finite = Field(description="mean over n edits")
    std: Finite
    n: int
    worst: str | None = Field(description="clip_key of the worst edit; None where no direction is better")
    worst_value: Finite | None = None
    low: Finite | None = Field(default=None, description="95 % bootstrap interval of the mean over clips; None for one clip, or a figure of the whole set")
    high: Finite | None = None
    direction: Direction
    extractor: str | None = None
    note: str = ""


class Report(Frozen):
    """What a stage's gate judges and a person reads."""

    stage: str
    metrics: tuple[Metric, ...]
    edits_done: int
    edits_failed: int
    edits_quarantined: int
    edits_missing: int = 0
    warnings: tuple[str, ...]
    extractors: dict[str, Any] = Field(description="the EvalSpec: which weights stood behind the numbers")
    per_edit: tuple[EditScores, ...]
    checks: tuple[Check, ...] = Field(default=(), description="sanity checks; () in a report that was made before there were any")

    @property
    def edits(self) -> int:
        return len(self.per_edit)

    @property
    def checks_failed(self) -> int:
        return sum(check.status == "failed" for check in self.checks)

    def metric(self, name: str) -> Metric | None:
        return next((m for m in self.metrics if m.name == name), None)

    def family(self, name: str) -> Metric | None:
        """The metric of that name, or the first whose name is that with a stand-in's or judge's bracket."""
        return self.metric(name) or next((m for m in self.metrics if m.name.startswith(f"{name}[")), None)

    def values(self) -> dict[str, float]:
        """Mean by metric name."""
        return {m.name: m.value for m in self.metrics}


def aggregate(stage: str, edits: Sequence[EditScores], spec: EvalSpec, *, on_training_clips: bool = False, warnings: Sequence[str] = ()) -> Report:
    """The report over all edits of a stage, the failed and quarantined too.

    A metric's mean is over the edits that have it: where some lack it, n says so and a warning names the reason.
    `on_training_clips` and `warnings` are what the caller knows. Raises ValueError where two edits are of the same clip and reference.
    """
    pairs = [(e.clip_key, e.reference_key) for e in edits]
    twice = sorted({pair for pair in pairs if pairs.count(pair) > 1})
    if twice:
        raise ValueError(f"stage '{stage}': edits of the same clip and reference, {twice}. Count each edit once.")
    counts = {status: sum(e.status == status for e in edits) for status in ("done", "failed", "quarantined")}
    names = list(dict.fromkeys(name for edit in edits for name in edit.scores))
    metrics, said = [], list(warnings)
    if on_training_clips:
        said.append("Evaluated on training clips: the numbers say nothing about clips the model has not seen.")
    said += _accounts(counts, len(edits)) + _extractor_warnings(spec)
    for name in names:
        metric, missing = _over_edits(name, edits)
        if metric is not None:
            metrics.append(metric)
        said += missing
    over_all, missing = _of_the_stage(metrics)
    metrics += over_all
    said += missing + _still(edits)
    said.append("FVD not measured: it needs I3D weights and hundreds of videos; a gate on fvd fails as not measured.")
    return Report(
        stage=stage,
        metrics=tuple(metrics),
        edits_done=counts["done"],
        edits_failed=counts["failed"],
        edits_quarantined=counts["quarantined"],
        warnings=tuple(dict.fromkeys(said)),
        extractors=spec.identity(),
        per_edit=tuple(edits),
    )


def _over_edits(name: str, edits: Sequence[EditScores]) -> tuple[Metric | None, list[str]]:
    scored = [(e.clip_key, e.scores[name]) for e in edits if name in e.scores]
    measured = [(key, score.value, score) for key, score in scored if score.value is not None]
    reasons = list(dict.fromkeys(score.note for _, score in scored if score.value is None))
    missing = [f"{name} not measured for {len(scored) - len(measured)} of {len(scored)} edits: {'; '.join(reasons)}"] if reasons else []
    if not measured:
        return None, missing
    values = [value for _, value, _ in measured]
    example = measured[0][2]
    low, high = bootstrap_interval(values) if name.startswith("identity_") else (None, None)
    worst_key, worst_value = None, None
    if example.direction != "context":
        pick = min if example.direction == "higher" else max
        worst_key, worst_value, _ = pick(measured, key=lambda m: m[1])
    metric = Metric(
        name=name,
        value=statistics.fmean(values),
        std=statistics.pstdev(values),
        n=len(values),
        worst=worst_key,
        worst_value=worst_value,
        low=low,
        high=high,
        direction=example.direction,
        extractor=example.extractor,
        note=_note([score.note for _, _, score in measured]),
    )
    return metric, missing


def _note(notes: Sequence[str]) -> str:
    """The edits' note; where they differ, the three most common with their number of edits."""
    counts = Counter(notes).most_common()
    if len(counts) == 1:
        return notes[0]
    more = f"; and {len(counts) - 3} more kinds" if len(counts) > 3 else ""
    return "; ".join(f"{note} ({count} edits)" for note, count in counts[:3]) + more


def _of_the_stage(metrics: Sequence[Metric]) -> tuple[list[Metric], list[str]]:
    """Figures of the means, not of any one edit: gap_closed, weighted_score. And why one could not be had."""
    found, missing = [], []
    by_name = {m.name: m for m in metrics}
    edit, base, ceiling = (by_name.get("in_product_psnr_db" + suffix) for suffix in ("", "_base", "_ceiling"))
    if edit and base and ceiling:
        try:
            value = gap_closed(edit.value, base.value, ceiling.value)
            note = "share of the in-product PSNR between base and VAE round trip, of the mean dB"
            found.append(Metric(name="gap_closed", value=value, std=0.0, n=edit.n, worst=None, direction="higher", note=note))
        except ValueError as error:
            missing.append(f"gap_closed not measured: {error}")
    weighted = weighted_score({m.name: m.value for m in metrics})
    if weighted is not None:
        n = max(m.n for m in metrics)
        found.append(Metric(name=weighted.name, value=weighted.value, std=0.0, n=n, worst=None, direction="higher", note=weighted.note))
    return found, missing


def _accounts(counts: dict[str, int], total: int) -> list[str]:
    if total == 0:
        return ["No edit was made: nothing is measured."]
    lost = counts["failed"] + counts["quarantined"]
    if not lost:
        return []
    which = f"{counts['failed']} failed, {counts['quarantined']} quarantined"
    return [f"{lost} of {total} edits are not in the means: {which}. Reasons are in the table of edits."]


def _extractor_warnings(spec: EvalSpec) -> list[str]:
    seen = {"clip": spec.clip, "dino": spec.dino} | ({"judge": spec.judge} if spec.judge else {})
    return [
        f"Random weights: the {kind} extractor {model.architecture} ({model.weights}) is not trained; "
        "its similarities show that the code runs, not quality."
        for kind, model in seen.items()
        if model.weights.startswith("seed:")
    ]


def _still(edits: Sequence[EditScores]) -> list[str]:
    still = []
    for edit in edits:
        made, source = edit.scores.get("frame_motion_raw"), edit.scores.get("frame_motion_source")
        if made and source and made.value is not None and source.value and made.value < STILL_SHARE * source.value:
            still.append(edit.clip_key)
    if not still:
        return []
    return [f"{len(still)} edits are near-static (motion under {STILL_SHARE:.0%} of their source's), which flatters frame_ssim: {', '.join(still)}."]
