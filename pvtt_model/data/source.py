"""From what `--clips` names to checked lines: a manifest as it is, what was pushed to a prefix, or a folder for which one is drafted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pvtt_model.artifacts import digest
from pvtt_model.data.layouts import MANIFEST, draft, layout_of, write_draft
from pvtt_model.data.locate import Fetch
from pvtt_model.data.manifest import ManifestScan, read_manifest
from pvtt_model.data.pushed import LINES, pushed_text
from pvtt_model.specs import ClipSpec


def read_source(place: Path, uri: str, spec: ClipSpec, fetch: Fetch, drafts: Path, memories: Path | None = None) -> ManifestScan:
    """The scan of `place`, a local copy of `uri` (the same path, or s3://). A drafted manifest is written below `drafts`, under its digest.

    memories: a folder to remember hashes in, so that a file that was not touched is not hashed again; None hashes every file.
    Raises FileNotFoundError where there is nothing, ValueError where a benchmark's JSON is none or lies alone on s3://, or where the draft
    was changed in its place.
    """
    if layout_of(place) == "manifest":
        if place.is_file():
            return read_manifest(place, uri, spec, fetch, memory=_memory(memories, place))
        return read_manifest(place / MANIFEST, str(place / MANIFEST), spec, fetch, memory=_memory(memories, place / MANIFEST))
    if layout_of(place) == "pushed":
        path = _written(pushed_text(place), "pushed", place, drafts)
        return read_manifest(path, str(place.resolve() / path.name), spec, fetch, root=place, memory=_memory(memories, place / LINES))
    if place.is_file() and uri.startswith("s3://"):
        raise ValueError(f"{uri} is a benchmark's JSON, whose videos and masks lie beside it. Give the prefix that holds them all.")
    found = draft(place)
    folder = place if place.is_dir() else place.parent
    path = _written(found.text(), found.layout, folder, drafts)
    scan = read_manifest(path, str(folder.resolve() / path.name), spec, fetch, root=folder, memory=_memory(memories, folder / found.layout))
    return replace(scan, draft=path, passed_over=found.passed_over)


def _written(text: str, layout: str, folder: Path, drafts: Path) -> Path:
    path = drafts / f"{layout}-{digest(text)}.jsonl"
    try:
        write_draft(text, path)
    except FileExistsError:
        raise ValueError(f"{path} was changed after it was drafted. Copy it to {folder / MANIFEST}, which then counts, or delete it.") from None
    return path


def _memory(memories: Path | None, source: Path) -> Path | None:
    """A memory a source: two manifests in one folder do not push each other out."""
    return memories / f"{digest(str(source.resolve()))}.json" if memories else None
