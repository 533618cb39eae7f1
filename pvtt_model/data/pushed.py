"""Clips pushed to a prefix: files by their content, and the lines that name them in numbered files that nothing writes over.

    files/ab/<sha256>.mp4               a video, a reference picture, masks as a video
    files/masks/<digest>/00000.png      a folder of masks, by the hashes of its pictures in their order
    pushed/000000.jsonl, 000001.jsonl   lines of a manifest (manifest.py) in the order they came; paths are relative to the prefix

A line's text names all by content, so equal texts are equal clips, and pushing a clip again is seen without reading its files there. A folder
of this layout is a source like any other: `pushed_text` joins the lines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pvtt_model.artifacts import canonical_json, digest
from pvtt_model.data.checked_line import CheckedLine

LINES = "pushed"


class PushedLine(NamedTuple):
    """A manifest's line, and the files that it names: key below the prefix -> where it lies here."""

    text: str
    files: dict[str, str]

    def video(self) -> tuple[str, Any]:
        """What no two lines of a source share: the video and the benchmark's task."""
        return video_of(self.text)


def pushed_line(line: CheckedLine) -> PushedLine:
    """The line with its files' keys in the place of its paths; all else as it was."""
    files: dict[str, str] = {}

    def one(path: str, sha256: str) -> str:
        key = f"files/{sha256[:2]}/{sha256}{PurePosixPath(path).suffix.lower()}"
        files[key] = path
        return key

    def masks(form: str, paths: Sequence[str], hashes: Sequence[str]) -> str | None:
        if form == "none":
            return None
        if form == "video":
            return one(paths[0], hashes[0])
        folder = f"files/masks/{digest('masks', list(hashes))}"
        files.update({f"{folder}/{i:05d}.png": path for i, path in enumerate(paths)})
        return folder

    references = [one(path, sha) for path, sha in zip(line.reference_paths, line.reference_sha256, strict=True)]
    values: dict[str, Any] = {
        "video_path": one(line.video_path, line.video_sha256),
        "reference_image": references,
        "mask_path": masks(line.mask_format, line.mask_paths, line.mask_sha256),
        "text_prompt": line.prompt,
        "metadata": dict(line.metadata),
    }
    if line.truth:
        its = line.truth
        truth = {"video_path": one(its.video_path, its.video_sha256), "mask_path": masks(its.mask_format, its.mask_paths, its.mask_sha256)}
        values["metadata"]["truth"] = {"product_id": its.product_id, **truth}
    return PushedLine(canonical_json(values).decode(), files)


def video_of(text: str) -> tuple[str, Any]:
    """(video, task) of a pushed line's text."""
    values = json.loads(text)
    return values["video_path"], values["metadata"].get("benchmark_task")


def lines_key(number: int) -> str:
    """The key of a file of lines."""
    return f"{LINES}/{number:06d}.jsonl"


def is_pushed(folder: Path) -> bool:
    return (folder / lines_key(0)).is_file()


def pushed_text(folder: Path) -> str:
    """All lines pushed to `folder`, as one manifest. Raises ValueError where a file of lines is missing between others."""
    found = sorted((folder / LINES).glob("*.jsonl"))
    due = [lines_key(n) for n in range(len(found))]
    there = [path.relative_to(folder).as_posix() for path in found]
    if there != due:
        gone = next(d for d, t in zip(due, there, strict=True) if d != t)
        raise ValueError(f"{folder} lacks {gone} of the pushed lines. Restore it, or list the folder again when the upload has ended.")
    return "".join(path.read_text(encoding="utf-8") for path in found)
