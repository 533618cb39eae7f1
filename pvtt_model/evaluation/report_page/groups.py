"""Means by group: category, difficulty, whatever the edits carry (EditScores.groups)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from pvtt_model.evaluation.confidence import bootstrap_interval
from pvtt_model.evaluation.report import Metric, Report

NO_GROUP = "not given"


class Cell(NamedTuple):
    """One metric in one group. low, high: the 95 % interval of the mean, None for one edit. worst: alone of two or more groups."""

    n: int
    mean: float
    low: float | None
    high: float | None
    worst: bool


class Group(NamedTuple):
    name: str  # e.g. bag
    done: int
    edits: int
    cells: tuple[Cell | None, ...]  # in the order of the metrics asked for


class GroupTable(NamedTuple):
    name: str  # e.g. category
    metrics: tuple[Metric, ...]
    groups: tuple[Group, ...]


def group_tables(report: Report, metrics: Sequence[Metric]) -> list[GroupTable]:
    """A table for each kind of group; [] where the edits carry none. Edits without that kind are a group of their own, so that N adds up."""
    names = list(dict.fromkeys(name for edit in report.per_edit for name in edit.groups))
    per_edit = [m for m in metrics if any(m.name in edit.scores for edit in report.per_edit)]
    return [_table(report, name, per_edit) for name in names]


def _table(report: Report, name: str, metrics: Sequence[Metric]) -> GroupTable:
    members = sorted({edit.groups.get(name, NO_GROUP) for edit in report.per_edit}, key=lambda group: (group == NO_GROUP, group))
    values = {group: _values(report, name, group, metrics) for group in members}
    worst = [_worst(metric, {group: values[group][i] for group in members}) for i, metric in enumerate(metrics)]
    groups = []
    for group in members:
        edits = [edit for edit in report.per_edit if edit.groups.get(name, NO_GROUP) == group]
        cells = tuple(_cell(its, worst[i] == group) for i, its in enumerate(values[group]))
        groups.append(Group(group, sum(edit.status == "done" for edit in edits), len(edits), cells))
    return GroupTable(name, tuple(metrics), tuple(groups))


def _values(report: Report, name: str, group: str, metrics: Sequence[Metric]) -> list[list[float]]:
    edits = [edit for edit in report.per_edit if edit.groups.get(name, NO_GROUP) == group]
    scores = [[edit.scores[metric.name].value for edit in edits if metric.name in edit.scores] for metric in metrics]
    return [[value for value in its if value is not None] for its in scores]


def _worst(metric: Metric, values: dict[str, list[float]]) -> str | None:
    means = {group: statistics.fmean(its) for group, its in values.items() if its}
    if metric.direction == "context" or len(set(means.values())) < 2:
        return None
    end = (min if metric.direction == "higher" else max)(means.values())
    there = [group for group, mean in means.items() if mean == end]
    return there[0] if len(there) == 1 else None


def _cell(values: list[float], worst: bool) -> Cell | None:
    if not values:
        return None
    low, high = bootstrap_interval(values) if len(values) > 1 else (None, None)
    return Cell(len(values), statistics.fmean(values), low, high, worst)
