"""A list of edits, one after the other: what is done is found again by its report, what fails is counted with its reason.

    OUT/<id>/          an edit's folder, there as a whole or not at all
    OUT/results.jsonl  a line a task: id, status, reason, key, seconds; written anew after every task, by rename

A finished task is one whose report holds the key of the same request, settings and teacher, and whose files have the report's hashes. So a
run that was killed at any moment goes on where it was, and a changed task is made again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.editing.request import EditRequest
from pvtt_model.editing.task_list import EditTask

RESULTS, REPORT = "results.jsonl", "report.json"
Status = Literal["done", "found", "failed"]


class Result(NamedTuple):
    id: str
    status: Status  # found: finished by an earlier run
    reason: str | None
    key: str | None
    seconds: float


class Work(NamedTuple):
    """How one request is edited: key_of(request) before the work, and edit(request, folder), which leaves report.json with that key."""

    key_of: Callable[[EditRequest], str]
    edit: Callable[[EditRequest, Path], Any]


def run_batch(tasks: Sequence[EditTask], out: Path, work: Work, limit: int | None = None) -> Iterator[Result]:
    """Every task's result as it comes; with `limit`, that many edits are tried and the rest is left for another run. An error of one task
    (bad input, divergence, memory) ends that task alone."""
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    tried = 0
    for task in tasks:
        begun = time.monotonic()
        key, reason = _key_of(task, work)
        if key is not None and is_finished(out / task.id, key):
            results.append(Result(task.id, "found", None, key, 0.0))
        elif limit is not None and tried >= limit:
            continue
        else:
            tried += 1
            if key is not None and task.request is not None:
                reason = _failure(work, task.request, out / task.id)
            results.append(Result(task.id, "failed" if reason else "done", reason, key, round(time.monotonic() - begun, 3)))
        _write(out / RESULTS, results)
        yield results[-1]


def _key_of(task: EditTask, work: Work) -> tuple[str | None, str | None]:
    """(the task's key, or None; why it has none)."""
    if task.request is None:
        return None, task.reason
    try:
        return work.key_of(task.request), None
    except Exception as error:  # noqa: BLE001 - whatever a task's files hold, the others go on
        return None, _said(error)


def is_finished(folder: Path, key: str) -> bool:
    """Whether `folder` holds the finished edit of that key, with the files that its report names."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return report["key"] == key and all(sha256_of_file(folder / name) == sha256 for name, sha256 in report["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def _failure(work: Work, request: EditRequest, folder: Path) -> str | None:
    try:
        work.edit(request, folder)
    except Exception as error:  # noqa: BLE001 - the same
        return _said(error)
    return None


def _said(error: Exception) -> str:
    plain = isinstance(error, (ValueError, OSError)) or type(error).__name__ in ("VideoUnreadable", "DecodeTimeout", "FloatingPointError")
    return str(error) if plain else f"{type(error).__name__}: {error}"


def _write(path: Path, results: Sequence[Result]) -> None:
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(result._asdict(), ensure_ascii=False) + "\n" for result in results)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
