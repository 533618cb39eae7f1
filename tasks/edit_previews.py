"""What one Ray worker does with one edit for the report's page: small videos of it, found again by the edit's hash. No Prefect in here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from infra.artifact_store import ArtifactStore, Derived
from infra.store import ObjectMissing
from pvtt_model.artifacts import StoredFile, digest
from pvtt_model.data.shards import read_row
from pvtt_model.evaluation.report_page.beside import Seen, Video
from tasks.shard_work import few_threads, opened

KIND = "previews"
REVISION = 1  # raised with what make_preview writes
REFERENCE = "reference.jpg"


class PreviewUnit(NamedTuple):
    store: str
    key: str
    edit: StoredFile


def preview_unit(store: ArtifactStore, edit: StoredFile) -> PreviewUnit:
    return PreviewUnit(store.store.uri, digest(KIND, edit.sha256, REVISION), edit)


def make_preview(unit: PreviewUnit) -> Derived:
    """Per video an mp4 and a JPEG of its first frame, and the reference picture, pooled; an edit that cannot be shown has none, and says why."""
    from pvtt_model.data.video_io import write_mp4
    from pvtt_model.evaluation.preview import CRF, poster, preview_videos, reference_picture

    few_threads()
    store = opened(unit.store)
    found = store.find_derived(KIND, unit.key)
    if found is not None:
        return found
    try:
        row = read_row(store.local_path(unit.edit), 0)
    except ObjectMissing as error:
        return Derived(kind=KIND, key=unit.key, files=(), summary={"reason": str(error.args[0])}, created="", commit_id="")
    try:
        videos, reference = preview_videos(row), reference_picture(row)
    except (ValueError, OSError) as error:  # OSError: PIL's answer to bytes that are no picture
        return store.record_derived(KIND, unit.key, [], {"reason": str(error)})
    files = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / REFERENCE).write_bytes(reference)
        files.append(store.pool(folder / REFERENCE, REFERENCE))
        for label, frames in videos.items():
            write_mp4(folder / "video.mp4", frames, row["fps"], CRF, "veryfast")
            (folder / "poster.jpg").write_bytes(poster(frames))
            files += [store.pool(folder / "video.mp4", f"{label}.mp4"), store.pool(folder / "poster.jpg", f"{label}.jpg")]
    frames_count = len(next(iter(videos.values())))
    return store.record_derived(KIND, unit.key, files, {"labels": list(videos), "fps": row["fps"], "frames": frames_count})


def seen_of(store: ArtifactStore, record: Derived) -> Seen | None:
    """The files on this machine; None of an edit that cannot be shown."""
    if not record.files:
        return None
    paths = {file.name: store.local_path(file) for file in record.files}
    videos = tuple(Video(label, paths[f"{label}.mp4"], paths[f"{label}.jpg"]) for label in record.summary["labels"])
    return Seen(videos, paths[REFERENCE], record.summary["fps"], record.summary["frames"])
