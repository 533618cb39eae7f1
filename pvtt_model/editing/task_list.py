"""Tasks of a batch: JSON Lines of our own, or the benchmark's JSON with its folders beside it.

    {"id": "t1", "video": "v.mp4", "references": ["can.png"], "mask": "v_mask.mp4", "prompt": "A can on a desk.", ...}

Further fields, all optional: negative_prompt, product_words, point, box, source_references, num_frames, first_frame. Paths are relative to the file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from pvtt_model.data.layouts import draft
from pvtt_model.editing.request import EditRequest

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_PATHS, _PATH_LISTS = ("video", "mask", "first_frame"), ("references", "source_references")


class EditTask(NamedTuple):
    """request is None where the line is none, and reason says why: it is counted, not skipped."""

    id: str
    request: EditRequest | None
    reason: str | None = None


def read_tasks(path: Path) -> list[EditTask]:
    """The tasks in the file's order. Raises FileNotFoundError, and ValueError for no tasks, ids that are no file names or stand twice."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no task list at {path}. Give a .jsonl, or the benchmark's .json.")
    tasks = _of_benchmark(path) if path.suffix.lower() == ".json" else _of_lines(path)
    if not tasks:
        raise ValueError(f"{path} holds no task. Write a JSON object a line: id, video, references, prompt.")
    ids = [task.id for task in tasks]
    bad = [i for i in ids if not _ID.fullmatch(i)]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if bad or twice:
        raise ValueError(
            f"{path}: ids {(bad or twice)[:5]} {'are no file names' if bad else 'stand twice'}. Use letters, digits, '.', '_', '-', each once."
        )
    return tasks


def _of_lines(path: Path) -> list[EditTask]:
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return [_task(number, line, path.parent) for number, line in enumerate(lines, 1)]


def _task(number: int, line: str, folder: Path) -> EditTask:
    try:
        value = json.loads(line)
    except ValueError as error:
        return EditTask(f"line-{number}", None, f"line {number} is not JSON: {error}")
    if not isinstance(value, dict):
        return EditTask(f"line-{number}", None, f"line {number} is a JSON {type(value).__name__}, not an object.")
    name = str(value.pop("id", f"line-{number}"))
    unknown = sorted(set(value) - set(EditRequest._fields))
    missing = [field for field in ("video", "references") if not value.get(field)]
    if unknown or missing:
        return EditTask(
            name, None, f"task {name}: {f'unknown fields {unknown}' if unknown else f'no {missing}'}. Valid: id, {', '.join(EditRequest._fields)}."
        )
    return EditTask(name, _request(value, folder))


def _request(value: dict[str, Any], folder: Path) -> EditRequest:
    given = {name: field for name, field in value.items() if field is not None}
    for name in _PATHS:
        if name in given:
            given[name] = folder / str(given[name])
    for name in _PATH_LISTS:
        if name in given:
            given[name] = tuple(folder / str(p) for p in (given[name] if isinstance(given[name], list) else [given[name]]))
    for name in ("point", "box"):
        if name in given:
            given[name] = tuple(float(v) for v in given[name])
    return EditRequest(**given)


def _of_benchmark(path: Path) -> list[EditTask]:
    """The benchmark's tasks by the draft of its manifest (data/draft_benchmark.py); what is not there is the reason."""
    tasks = []
    for line in draft(path, "benchmark").lines:
        said, metadata = line["metadata"]["provenance"], line["metadata"]
        name = str(metadata["benchmark_task"]).replace(" ", "-")
        if not line["reference_image"]:
            tasks.append(
                EditTask(name, None, f"task {name}: reference picture: {said.get('reference_image', 'not there')}. Look in product_images/.")
            )
            continue
        value = {
            "video": line["video_path"], "references": line["reference_image"], "mask": line["mask_path"], "prompt": line["text_prompt"],
            "negative_prompt": metadata.get("negative_prompt"), "product_words": metadata.get("product_words"),
        }  # fmt: skip
        tasks.append(EditTask(name, _request(value, path.parent)))
    return tasks
