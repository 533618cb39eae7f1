"""The edits in the order in which a person should look at them, each with the reason why it stands there."""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pvtt_model.evaluation.edit_scores import EditScores
from pvtt_model.evaluation.report import Metric, Report

_NAMED = 3  # an edit's reason names a metric where it is among this many worst
_LOST = {"missing": 0, "failed": 1, "quarantined": 2}


class Case(NamedTuple):
    edit: EditScores
    why: str


class Rank(NamedTuple):
    """Where one edit stands in one metric: `better` edits are better, `worse` worse, the others of n equal."""

    metric: Metric
    value: float
    worse: int
    better: int
    n: int

    @property
    def badness(self) -> float:
        """1 is the worst of all, 0 the best; equal edits share the middle of their ranks."""
        return 0.5 if self.n < 2 else 0.5 + 0.5 * (self.better - self.worse) / (self.n - 1)


def worst_first(report: Report, metrics: Sequence[Metric]) -> list[Case]:
    """Every edit once: the lost; those a failed check names; the worst in each of `metrics` (whose order counts); the rest by their mean rank."""
    edits = {_key(edit): edit for edit in report.per_edit}
    ranks = _ranks(report, metrics)
    badness = {key: statistics.fmean(r.badness for r in its) if its else 0.0 for key, its in ranks.items()}
    named = {clip: check.name for check in report.checks if check.status == "failed" for clip in check.clips}
    order = [_key(e) for e in sorted((e for e in report.per_edit if e.status != "done"), key=lambda e: _LOST[e.status])]
    order += sorted((_key(e) for e in report.per_edit if e.status == "done" and e.clip_key in named), key=lambda key: -badness[key])
    for metric in metrics:
        of_it = [(rank, key) for key, its in ranks.items() for rank in its if rank.metric is metric]
        if of_it:
            order.append(max(of_it, key=lambda rk: (rk[0].badness, badness[rk[1]]))[1])
    order += sorted(ranks, key=lambda key: -badness[key])
    return [Case(edits[key], _why(edits[key], ranks.get(key, []), named)) for key in dict.fromkeys(order)]


def _key(edit: EditScores) -> tuple[str, str]:
    return edit.clip_key, edit.reference_key


def _ranks(report: Report, metrics: Sequence[Metric]) -> dict[tuple[str, str], list[Rank]]:
    """By done edit its ranks; a metric in which all edits are equal ranks none."""
    ranks: dict[tuple[str, str], list[Rank]] = {_key(edit): [] for edit in report.per_edit if edit.status == "done"}
    for metric in metrics:
        values = _of(report, metric)
        if len(set(values.values())) < 2:
            continue
        sign = 1.0 if metric.direction == "higher" else -1.0
        ordered = sorted(sign * value for value in values.values())
        for key, value in values.items():
            worse, better = bisect_left(ordered, sign * value), len(ordered) - bisect_right(ordered, sign * value)
            ranks[key].append(Rank(metric, value, worse, better, len(values)))
    return ranks


def _of(report: Report, metric: Metric) -> Mapping[tuple[str, str], float]:
    found = {}
    for edit in report.per_edit:
        score = edit.scores.get(metric.name)
        if edit.status == "done" and score is not None and score.value is not None:
            found[_key(edit)] = score.value
    return found


def _why(edit: EditScores, ranks: list[Rank], named: Mapping[str, str]) -> str:
    if edit.status != "done":
        return f"{edit.status}: {edit.reason or 'no reason was given'}"
    said = [f"named by the failed check '{named[edit.clip_key]}'"] if edit.clip_key in named else []
    low = sorted((r for r in ranks if r.n - r.better <= _NAMED and r.better > r.worse), key=lambda r: r.worse)
    if low:
        return "; ".join([*said, *(_placed(rank) for rank in low[:4])])
    if said or not ranks:
        return "; ".join(said) or "no metric tells the edits apart"
    return f"in no metric among the {_NAMED} worst; nearest to it: {_placed(max(ranks, key=lambda r: r.badness))}"


def _placed(rank: Rank) -> str:
    equal = rank.n - rank.better - rank.worse
    place = "worst" if rank.worse == 0 else f"{_ordinal(rank.worse + 1)} worst"
    where = f"{place} of {rank.n}" if equal == 1 else f"one of {equal} equally {place} of {rank.n}"
    return f"{where} in {rank.metric.name} ({rank.value:.4g}, mean {rank.metric.value:.4g})"


def _ordinal(n: int) -> str:
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"
