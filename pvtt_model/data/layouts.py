"""Folders that come without a manifest, and the manifest drafted from them.

Five layouts are known, looked for in this order (`layout_of`):

    manifest    manifest.jsonl in the folder: nothing is drafted
    pushed      what `pvtt data push` put there (pushed.py): nothing is drafted
    benchmark   one JSON of edit tasks beside videos/, masks/ and product_images/ (the 199-task benchmark's layout)
    samples     one folder a sample: its video, mask, reference pictures, prompt text
    videos      anything else: every video below the folder is a clip; what lies beside it under its own name goes with it

A draft is a manifest in the survey's format, the same bytes for the same folder, for a person to read and correct. It says under
`metadata.provenance` what each field is from. What is not there is null, and is refused at ingest with its own kind: nothing is invented.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pvtt_model.data.draft_benchmark import TASK_FIELDS, draft_tasks
from pvtt_model.data.draft_clips import draft_samples, draft_videos, is_sample
from pvtt_model.data.listing import Listing
from pvtt_model.data.pushed import LINES, is_pushed

Layout = Literal["manifest", "pushed", "benchmark", "samples", "videos"]
MANIFEST = "manifest.jsonl"
_DRAFTERS: dict[str, Callable[[Listing], Iterator[dict[str, Any]]]] = {"samples": draft_samples, "videos": draft_videos}


class Draft(NamedTuple):
    layout: Layout
    lines: tuple[dict[str, Any], ...]  # of the manifest; paths relative to the folder
    passed_over: tuple[tuple[str, str], ...]  # (file, why it is in no line)

    def text(self, base: str = "") -> str:
        """The manifest's text, a line a clip. base: put before every relative path, e.g. 's3://bucket/prefix' or '../videos'."""
        return "".join(json.dumps(_below(base, line), ensure_ascii=False) + "\n" for line in self.lines)


def layout_of(place: Path) -> Layout:
    """The layout of a folder, or of a file (JSON: benchmark; anything else: a manifest). Raises FileNotFoundError."""
    if not place.exists():
        raise FileNotFoundError(f"there is nothing at {place}. Give a manifest (.jsonl), a benchmark's .json, or a folder.")
    if place.is_file():
        return "benchmark" if place.suffix.lower() == ".json" else "manifest"
    if (place / MANIFEST).is_file():
        return "manifest"
    if is_pushed(place):
        return "pushed"
    if (place / "videos").is_dir() and _task_files(place):
        return "benchmark"
    listing = Listing(place)
    folders = [f for f in listing.folders() if f]
    if folders and not listing.videos("") and any(is_sample(listing, f) for f in folders):
        return "samples"
    return "videos"


def draft(place: Path, layout: Layout | None = None) -> Draft:
    """The draft of a folder, or of a benchmark's JSON file. layout: where the folder's own is not wanted.

    Raises ValueError for a manifest (there is nothing to draft), an unknown layout, and a benchmark JSON that is none.
    """
    chosen = layout or layout_of(place)
    if chosen in ("manifest", "pushed"):
        held = MANIFEST if chosen == "manifest" else LINES
        raise ValueError(f"{place} is a manifest, or holds one ({held}); it needs no draft. Give it as it is, or name another layout.")
    if chosen not in get_args(Layout):
        raise ValueError(f"no layout '{chosen}'. Valid: {', '.join(get_args(Layout))}.")
    folder = place if place.is_dir() else place.parent
    listing = Listing(folder)
    if chosen == "benchmark":
        files = [place] if place.is_file() else _task_files(folder)
        if len(files) != 1:
            names = [f.name for f in files]
            raise ValueError(f"{folder} holds {len(files)} JSON files of tasks {names}; one is wanted. Give the file itself as --clips.")
        listing.take(files[0].relative_to(folder).as_posix())
        lines = tuple(draft_tasks(listing, files[0]))
    else:
        lines = tuple(_DRAFTERS[chosen](listing))
    return Draft(chosen, lines, tuple(listing.passed_over()))


def _task_files(folder: Path) -> list[Path]:
    """The JSON files of the folder itself that look like the benchmark's."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with open(path, "rb") as file:
            head = file.read(1 << 16)
        if any(f'"{name}"'.encode() in head for name in TASK_FIELDS):
            found.append(path)
    return found


def _below(base: str, line: dict[str, Any]) -> dict[str, Any]:
    if not base:
        return line

    def moved(path: Any) -> Any:
        if isinstance(path, list):
            return [moved(p) for p in path]
        return f"{base.rstrip('/')}/{path}" if isinstance(path, str) else path

    return line | {name: moved(line[name]) for name in ("video_path", "reference_image", "mask_path") if name in line}


def write_draft(text: str, path: Path) -> None:
    """The draft's text at `path`, whole or not at all. Raises FileExistsError: what a person may have corrected is not written over."""
    if path.exists() and path.read_text() != text:
        raise FileExistsError(f"{path} is there already and differs. Correct that file, or give another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text)
    os.replace(part, path)
