"""The report of one stage: every metric with its direction, N and extractor, every edit accounted for. Plain JSON, no NaN, no infinity."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import Field

from pvtt_model.evaluation.confidence import bootstrap_interval
from pvtt_model.evaluation.edit_scores import Check, Direction, EditScores, Frozen, Metric, Status
from pvtt_model.evaluation.in_product_psnr import gap_closed
from pvtt_model.evaluation.metric_cards import carded
from pvtt_model.evaluation.sanity import OWN_FIGURES, sanity_checks
from pvtt_model.evaluation.weighted_score import Weighted, weighted_score, weighted_score_of
from pvtt_model.specs import EvalSpec


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


def aggregate(
    stage: str,
    edits: Sequence[EditScores],
    spec: EvalSpec,
    *,
    leaks: Mapping[str, str] | None = None,
    of_set: Sequence[Metric] = (),
    warnings: Sequence[str] = (),
) -> Report:
    """The report over all edits of a stage, those that failed, are missing or quarantined too.

    A metric's mean is over the edits that have it: where some lack it, n says so and a warning names the reason. What the caller knows: leaks,
    clip_key -> why the edit is of something trained on ({}: looked for, none; None: not looked for); of_set: figures of all edits
    together (set_distances.py); warnings. Raises ValueError where two edits are of the same clip and reference.
    """
    pairs = [(e.clip_key, e.reference_key) for e in edits]
    twice = sorted({pair for pair in pairs if pairs.count(pair) > 1})
    if twice:
        raise ValueError(f"stage '{stage}': edits of the same clip and reference, {twice}. Count each edit once.")
    counts = {status: sum(e.status == status for e in edits) for status in get_args(Status)}
    names = list(dict.fromkeys(name for edit in edits for name in edit.scores))
    metrics, said = [], _accounts(counts, len(edits)) + list(warnings) + _extractor_warnings(spec)
    for name in names:
        metric, missing = _over_edits(name, edits)
        if metric is not None:
            metrics.append(metric)
        said += missing
    metrics += of_set
    over_all, missing = _of_the_stage(metrics)
    metrics += over_all
    said += missing
    if not any(m.name.startswith("fvd") for m in of_set):
        why = "the stage names no video network (evaluate.fvd)" if spec.fvd is None else "no features of the edits were given"
        said.append(f"FVD not measured: {why}; a gate on fvd fails as not measured.")
    checks = sanity_checks(edits, metrics, leaks)
    said = [f"Sanity check failed, {check.name}: {check.said}" for check in checks if check.status == "failed"] + said
    return Report(
        stage=stage,
        metrics=tuple(metrics),
        edits_done=counts["done"],
        edits_failed=counts["failed"],
        edits_quarantined=counts["quarantined"],
        edits_missing=counts["missing"],
        warnings=tuple(dict.fromkeys(said)),
        extractors=spec.identity(),
        per_edit=tuple(edits),
        checks=tuple(checks),
    )


def _over_edits(name: str, edits: Sequence[EditScores]) -> tuple[Metric | None, list[str]]:
    scored = [(e.clip_key, e.scores[name]) for e in edits if name in e.scores]
    measured = [(key, score.value, score) for key, score in scored if score.value is not None]
    reasons = list(dict.fromkeys(score.note for _, score in scored if score.value is None))
    missing = [f"{name} not measured for {len(scored) - len(measured)} of {len(scored)} edits: {_first(reasons)}"] if reasons else []
    missing = [] if name in OWN_FIGURES else missing  # a check says it
    if not measured:
        return None, missing
    values = [value for _, value, _ in measured]
    example = measured[0][2]
    low, high = bootstrap_interval(values) if len(values) > 1 else (None, None)
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
        card=carded(name),
    )
    return metric, missing


def _first(reasons: Sequence[str], most: int = 3) -> str:
    more = f"; and {len(reasons) - most} more reasons" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more


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
            found.append(_of_set("gap_closed", value, edit.n, "higher", note))
        except ValueError as error:
            missing.append(f"gap_closed not measured: {error}")
    values = {m.name: m.value for m in metrics}
    directions: tuple[tuple[Weighted | None, Direction], ...] = (
        (weighted_score(values), "higher"), (weighted_score_of(values, "source"), "context"), (weighted_score_of(values, "pasted"), "context"),
    )  # fmt: skip
    for weighted, direction in directions:
        if weighted is not None:
            found.append(_of_set(weighted.name, weighted.value, max(m.n for m in metrics), direction, weighted.note))
    return found, missing


def _of_set(name: str, value: float, n: int, direction: Direction, note: str) -> Metric:
    return Metric(name=name, value=value, std=0.0, n=n, worst=None, direction=direction, note=note, card=carded(name))


def _accounts(counts: dict[str, int], total: int) -> list[str]:
    if total == 0:
        return ["No edit was made: nothing is measured."]
    lost = {status: n for status, n in counts.items() if n and status != "done"}
    if not lost:
        return []
    which = ", ".join(f"{n} {status}" for status, n in lost.items())
    return [f"{sum(lost.values())} of {total} edits are not in the means: {which}. Reasons are in the table of edits."]


def _extractor_warnings(spec: EvalSpec) -> list[str]:
    return [
        f"Random weights: the {kind} extractor {model.architecture} ({model.weights}) is not trained; "
        "its similarities show that the code runs, not quality."
        for kind, model in spec.models().items()
        if model.weights.startswith("seed:")
    ]
