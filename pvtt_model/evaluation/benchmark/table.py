"""The benchmark's tables: a CSV row a task, and means with deviations over all tasks and over each category. Every task is accounted for."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pvtt_model.evaluation.benchmark.columns import Mode, columns_of, shown_name
from pvtt_model.evaluation.benchmark.embeddings import Networks
from pvtt_model.evaluation.benchmark.task_files import Task, TaskFrames, category_of
from pvtt_model.evaluation.benchmark.task_metrics import TaskRow, task_row


class Judged(NamedTuple):
    """One task in one mode: its row, or why there is none."""

    task: Task
    mode: Mode
    row: TaskRow | None
    reason: str = ""


def judge_tasks(tasks: Sequence[Task], read: Callable[[Task], TaskFrames], networks: Networks, modes: Sequence[Mode], **how: Any) -> Iterator[Judged]:
    """Each task in each mode, its files read once. A task whose files are not there or do not fit has no row and says why. how: of task_row."""
    for task in tasks:
        try:
            frames = read(task)
        except (ValueError, OSError) as error:
            yield from (Judged(task, mode, None, str(error)) for mode in modes)
            continue
        for mode in modes:
            try:
                yield Judged(task, mode, task_row(task, frames, networks, mode, **how))
            except ValueError as error:
                yield Judged(task, mode, None, str(error))


def write_csv(judged: Sequence[Judged], mode: Mode, networks: Networks, path: Path) -> None:
    """task_id, video_name, category, the mode's columns, and `missing`: what could not be had and why. A task without a row stands there too."""
    columns = columns_of(mode)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["task_id", "video_name", "category", *(shown_name(c, networks.names()) for c in columns), "missing"])
        for one in (j for j in judged if j.mode == mode):
            values = one.row.values if one.row else {}
            shown = ["" if values.get(c.name) is None else f"{values[c.name]:.6f}" for c in columns]
            why = "; ".join(f"{name}: {reason}" for name, reason in one.row.reasons.items()) if one.row else one.reason
            writer.writerow([one.task.id, one.task.video_name, category_of(one.task.id), *shown, why])


def summary(judged: Sequence[Judged], mode: Mode, networks: Networks) -> dict[str, Any]:
    """Means and deviations of each column over the tasks that have it, overall and by category, as JSON values.

    The deviation is the sample's (N - 1), None for one task: what the published summary gives. `n` stands beside each mean.
    """
    of_mode = [one for one in judged if one.mode == mode]
    there = [one for one in of_mode if one.row is not None]
    categories = sorted({category_of(one.task.id) for one in there})
    return {
        "mode": mode,
        "networks": networks.names(),
        "tasks": len(of_mode),
        "judged": len(there),
        "not_judged": {one.task.id: one.reason for one in of_mode if one.row is None},
        "overall": _means(there, mode, networks),
        "per_category": {c: _means([one for one in there if category_of(one.task.id) == c], mode, networks) for c in categories},
    }


def write_summary(judged: Sequence[Judged], mode: Mode, networks: Networks, path: Path) -> None:
    path.write_text(json.dumps(summary(judged, mode, networks), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _means(judged: Sequence[Judged], mode: Mode, networks: Networks) -> dict[str, dict[str, float | int | None]]:
    found: dict[str, dict[str, float | int | None]] = {}
    for column in columns_of(mode):
        values = [v for one in judged if one.row and (v := one.row.values.get(column.name)) is not None]
        if values:
            std = statistics.stdev(values) if len(values) > 1 else None
            found[shown_name(column, networks.names())] = {"mean": statistics.fmean(values), "std": std, "n": len(values)}
    return found
