"""Disks: a small one that is really mounted, a folder that cannot be written to, sums by file system."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pvtt_model.preflight.disk import Wanted, disk_checks, existing, step_checkpoint_bytes

GIB = 2**30


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """mounted(options): a tmpfs. Skips where this user may not mount."""
    places: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk_does_not_hold_what_is_wanted(mounted, tmp_path):
    place = mounted("size=1100m")
    (found,) = disk_checks([Wanted(place / "home" / "cache", 10**9, "weights")])
    assert found.status == "ok" and "weights 1.0 GB" in found.what
    (found,) = disk_checks([Wanted(place, 10**9, "weights"), Wanted(place / "store", 10**9, "pairs")])
    assert found.status == "fail" and "2.0 GB" in found.what and "1.2 GB free" in found.got and "PVTT_STORE" in found.cure
    (found,) = disk_checks([Wanted(place, 10**8, "weights"), Wanted(place / "store", 10**10, "pairs", maybe_there=True)])
    assert found.status == "warn", "what may be there already is no reason to refuse"
    assert len(disk_checks([Wanted(place, 1, "a"), Wanted(tmp_path, 1, "b")])) == 2, "two file systems"


def test_a_disk_of_few_inodes(mounted):
    place = mounted("size=2g,nr_inodes=100")
    assert [(c.name, c.status) for c in disk_checks([Wanted(place, 0, "")])] == [("disk", "ok"), ("inodes", "warn")]


def test_a_folder_that_cannot_be_written_to(mounted):
    place = mounted("size=2g,ro")
    (found,) = disk_checks([Wanted(place / "home", 1, "weights")])
    assert found.status == "fail" and "Read-only" in found.got


def test_nor_one_below_proc():
    """Not even root writes there: this one runs everywhere."""
    (found,) = disk_checks([Wanted(Path("/proc/pvtt/home"), 1, "weights")])
    assert found.status == "fail" and found.got.endswith("at /proc")


def test_more_than_there_is(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    (found,) = disk_checks([Wanted(tmp_path / "a" / "b", 2 * free, "pairs")])
    assert found.status == "fail" and not (tmp_path / "a").exists(), "nothing is made"
    assert existing(tmp_path / "a" / "b") == tmp_path


def test_a_step_checkpoint_by_hand():
    """Float32 weights, and for each parameter a float32 master and two moments, written once whatever the strategy; an average in float32."""
    assert step_checkpoint_bytes(10) == 160
    assert step_checkpoint_bytes(10, average=True) == 200
