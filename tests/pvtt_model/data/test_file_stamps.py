"""The same answers, whoever asks: a child, this process, or this process for a child that died."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import pvtt_model.data.file_stamps as file_stamps
from pvtt_model.data.file_stamps import FileStamps
from pvtt_model.data.stamp_worker import GONE, INODE, STAMP, last_change_ns, stamp_of


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Of 40 files with odd names, every fifth of which is not there."""
    names = [f"{i} ä\n {chr(0xDC80)}.png" for i in range(40)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    for name in names[::5]:
        (tmp_path / name).unlink()
    return [f"{tmp_path}/{name}" for name in names]


@pytest.mark.parametrize("few", [10, 1000])
def test_many_are_asked_for_by_a_child_and_few_here(paths: list[str], monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(file_stamps, "FEW", few)
    wanted = b"".join(map(stamp_of, paths))
    assert [wanted[i : i + STAMP] == GONE for i in range(0, len(wanted), STAMP)] == [i % 5 == 0 for i in range(40)]
    with FileStamps() as files:
        assert files.answer() == b""
        for asked in (paths, paths[:12], paths[::-1]):
            files.ask(["\0".join(asked[i : i + 3]) for i in range(0, len(asked), 3)])
            assert files.answer() == b"".join(map(stamp_of, asked))
        child = files._child
        assert (child is not None) == (few == 10)
    assert child is None or child.returncode is not None, "it ends with us"


def test_a_child_that_dies_costs_its_help_alone(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_stamps, "FEW", 10)
    wanted = b"".join(map(stamp_of, paths))
    with FileStamps() as files:
        for _ in range(3):
            files.ask(paths)
            first = files._child
            assert first is not None
            first.kill()
            first.wait()
            assert files.answer() == wanted
        files.ask(paths)
        second = files._child
        assert files.answer() == wanted and second is not first and second is not None, "another was started"
        second.kill()  # between two questions
        second.wait()
        files.ask(paths)
        assert files.answer() == wanted
    monkeypatch.setattr(file_stamps, "WORKER", Path("/nowhere.py"))
    with FileStamps() as files:
        files.ask(paths)
        assert files.answer() == wanted


def test_a_stamp_is_what_the_file_system_says(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    found = path.stat()
    stamp = stamp_of(str(path))
    assert stamp == b"".join(n.to_bytes(8, "little", signed=True) for n in (found.st_ino & INODE, 5, found.st_mtime_ns, found.st_ctime_ns))
    os.utime(path, ns=(0, -1))
    assert last_change_ns(stamp_of(str(path))) == path.stat().st_ctime_ns and stamp_of(str(path)) != stamp
    assert stamp_of(str(path) + "\0") == GONE == stamp_of(str(tmp_path / "none" / "such"))
