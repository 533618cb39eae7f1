"""Room on the disks: for weights, for the curated pairs, for step checkpoints. No torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pvtt_model.preflight.check import Check, Status

GIB = 2**30
FEW_INODES = 10_000
SPARE_BYTES = GIB  # below it every write is at risk, whatever the estimate says


class Wanted(NamedTuple):
    """What is to be written below a folder."""

    folder: Path
    bytes: int
    what: str
    maybe_there: bool = False  # some of it may be written already: too little room is then a warning


def step_checkpoint_bytes(trained: int, average: bool = False) -> int:
    """Bytes of one step checkpoint of `trained` parameters: they in float32, the float32 masters and AdamW's two moments, 16 each, once over all
    ranks; 4 more where an average is kept (train.ema_decay)."""
    return trained * (16 + 4 * average)


def disk_checks(wanted: Sequence[Wanted]) -> list[Check]:
    """A line for each file system that the folders are on: may be written to, has room for the sum, has inodes left."""
    by_device: dict[int, list[Wanted]] = {}
    for item in wanted:
        by_device.setdefault(os.stat(existing(item.folder)).st_dev, []).append(item)
    return [check for items in by_device.values() for check in _file_system(items)]


def _file_system(items: Sequence[Wanted]) -> list[Check]:
    places = {existing(item.folder): str(item.folder) for item in items}
    names = " ".join(dict.fromkeys(places.values()))
    closed = [check for place, name in places.items() if (check := _writable(place, name)) is not None]
    if closed:
        return closed
    place = next(iter(places))
    stat = os.statvfs(place)
    free, need = stat.f_bavail * stat.f_frsize, sum(item.bytes for item in items)
    sums = _by_what(items)
    parts = " + ".join(f"{what} {_size(count)}" for what, count in sums.items() if count)
    what, got = (f"{_size(need)} on the disk of {names} ({parts})" if need else f"room on the disk of {names}"), f"{_size(free)} free"
    status: Status = "ok"
    cure = ""
    if free < max(need, SPARE_BYTES):
        sure = sum(item.bytes for item in items if not item.maybe_there)
        status = "warn" if free >= max(sure, SPARE_BYTES) else "fail"
        cure = "Free some, set PVTT_HOME or PVTT_STORE to a larger disk, or lower train.keep_checkpoints" + (
            "; what is curated already needs no further room." if status == "warn" else "."
        )
    checks = [Check("disk", status, what, got, cure)]
    if stat.f_files and stat.f_favail < FEW_INODES:
        checks.append(Check("inodes", "warn", f"room for new files on the disk of {names}", f"{stat.f_favail} inodes free", "Delete small files."))
    return checks


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _writable(place: Path, name: str) -> Check | None:
    """A failed check where nothing can be written there: a file is made, nameless, and gone."""
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"pvtt")
            file.flush()
    except OSError as error:
        cure = "Give the folder to this user, mount it for writing, or set PVTT_HOME or PVTT_STORE to another."
        return Check("disk", "fail", f"{name} to be written to", f"{error.strerror or error} at {place}", cure)
    return None


def _by_what(items: Sequence[Wanted]) -> Mapping[str, int]:
    sums: dict[str, int] = {}
    for item in items:
        sums[item.what] = sums.get(item.what, 0) + item.bytes
    return sums


def _size(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"
