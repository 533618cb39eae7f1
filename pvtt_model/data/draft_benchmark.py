"""Drafted lines of the benchmark's JSON: 199 tasks over 53 videos and 35 product pictures.

A task puts the product of a picture into a video: the line's reference is the new product, its prompt the target's, and it is held
out (`split: eval`) under `metadata.benchmark_task`, so that one video may stand in several lines. Edit such clips with edit.reference=own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pvtt_model.data.draft_clips import line_of
from pvtt_model.data.listing import Listing

TASK_FIELDS = ("inference_image_id", "video_name")
KEPT = ("source_prompt", "negative_prompt", "source_object", "target_object", "instruction")
FROM = "the benchmark's JSON"


def draft_tasks(listing: Listing, path: Path) -> Iterator[dict[str, Any]]:
    """A line a task, in the file's order. Raises ValueError where the file is not a JSON list of objects (or an object holding one)."""
    pictures: dict[str, list[str]] = {}
    for folder in listing.folders():
        if folder.split("/")[0] == "product_images":
            for picture in listing.files(folder, "picture"):
                pictures.setdefault(PurePosixPath(picture).stem, []).append(picture)
                pictures.setdefault(PurePosixPath(picture).name, []).append(picture)
    for number, task in enumerate(_tasks(path), 1):
        yield _line(listing, task, number, pictures)


def _line(listing: Listing, task: dict[str, Any], number: int, pictures: dict[str, list[str]]) -> dict[str, Any]:
    name, image = _text(task, "video_name"), _text(task, "inference_image_id")
    video = None if name is None else _video(listing, name)
    stem = PurePosixPath(name).stem if name and PurePosixPath(name).suffix.lower() == ".mp4" else name
    mask = f"masks/{stem}" if stem and f"masks/{stem}" in listing.folders() else None
    found = pictures.get(image or "", [])
    references = found if len(found) == 1 else []
    sources = {field: FROM for field in ("benchmark_task", "split", "product_id", *KEPT)}
    if references:
        sources["reference_image"] = "product_images/, by inference_image_id"
    elif found:
        sources["reference_image"] = f"several: {', '.join(found)}"
    if mask:
        sources["mask_path"] = "masks/, by video_name"
    metadata: dict[str, Any] = {"split": "eval", "benchmark_task": _text(task, "id") or f"task {number}"}
    if image is not None:
        metadata["product_id"] = PurePosixPath(image).stem
    size = [task.get("video_width"), task.get("video_height")]
    if all(isinstance(n, int) and not isinstance(n, bool) for n in size):
        metadata["resolution"], sources["resolution"] = size, FROM
    metadata |= {field: value for field in KEPT if (value := _text(task, field)) is not None}
    words, prompt = _text(task, "target_object"), _text(task, "target_prompt")
    if words and prompt and words in prompt:
        metadata["product_words"], sources["product_words"] = words, "target_object"
    if prompt:
        sources["text_prompt"] = "target_prompt"
    listing.take(*([video] if video else []), *found, *([mask] if mask else []))
    return line_of(video, references, mask, prompt, sources, metadata)


def _video(listing: Listing, name: str) -> str:
    """videos/NAME with its ending; 'videos/NAME.mp4' where there is no such file, so that ingest names what is missing."""
    there = listing.files("videos", "video")
    exact = [v for v in there if PurePosixPath(v).name == name] or [v for v in there if PurePosixPath(v).stem == name]
    return exact[0] if exact else f"videos/{name}" + ("" if name.lower().endswith(".mp4") else ".mp4")


def _text(task: dict[str, Any], field: str) -> str | None:
    """The field as text (numbers too); None where it is absent, empty or of another type."""
    value = task.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def _tasks(path: Path) -> list[dict[str, Any]]:
    cure = "Give a JSON list of tasks, each an object with " + ", ".join(TASK_FIELDS) + ", target_prompt, ..."
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not valid JSON: {str(error)[:160]}. {cure}") from None
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list) or not all(isinstance(task, dict) for task in value):
        raise ValueError(f"{path.name} holds a JSON {type(value).__name__} that is no list of objects. {cure}")
    return value
