"""What a second scan hashes again, and what it believes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import pvtt_model.data.file_stamps as file_stamps
import pvtt_model.data.manifest as manifest
import pvtt_model.data.scan_memory as scan_memory
from pvtt_model.data.manifest import ManifestScan, read_manifest
from pvtt_model.specs import ClipSpec


class House:
    """Two clips with all that a line can name, and what was hashed in the last scan."""

    def __init__(self, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.hashed = at, []
        real: Callable[[Path], str] = manifest.sha256_of_file
        monkeypatch.setattr(manifest, "sha256_of_file", lambda path: self.hashed.append(Path(path).name) or real(path))
        monkeypatch.setattr(scan_memory, "GRAIN_NS", 0)
        lines = []
        for i in range(2):
            for name in (f"v{i}.mp4", f"r{i}.png", f"t{i}.mp4", f"tm{i}.mp4"):
                (at / name).write_bytes(name.encode())
            (at / f"m{i}").mkdir()
            for k in range(3):
                (at / f"m{i}" / f"{k:05d}.png").write_bytes(b"%d %d" % (i, k))
            metadata = {"resolution": None, "fps": None, "num_frames": None, "product_id": f"p{i}"}
            metadata |= {"truth": {"product_id": "q", "video_path": f"t{i}.mp4", "mask_path": f"tm{i}.mp4"}} if i else {}
            lines.append(
                {"video_path": f"v{i}.mp4", "reference_image": f"r{i}.png", "mask_path": f"m{i}", "text_prompt": "A cup.", "metadata": metadata}
            )
        self.write(lines)

    def write(self, lines: list[dict]) -> None:  # type: ignore[type-arg]
        self.lines = lines
        (self.at / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def scan(self, memory: bool = True, spec: ClipSpec | None = None) -> ManifestScan:
        self.hashed.clear()
        path = self.at / "manifest.jsonl"
        return read_manifest(path, str(path), spec or ClipSpec(), Path, memory=self.at / ".memory" / "m.json" if memory else None)


@pytest.fixture(params=["asked here", "asked by a child, a line at a time"])
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> House:
    if request.param != "asked here":
        monkeypatch.setattr(file_stamps, "FEW", 1)
        monkeypatch.setattr(scan_memory, "WINDOW", 1)
    return House(tmp_path, monkeypatch)


def test_what_was_not_touched_is_not_hashed_and_comes_back_as_it_was(house: House) -> None:
    first = house.scan()
    assert len(house.hashed) == 12
    again = house.scan()
    assert again == first == house.scan(memory=False)
    house.scan()
    assert house.hashed == []


def test_a_line_put_first_is_hashed_alone_and_the_numbers_follow(house: House) -> None:
    house.scan()
    for name in ("v2.mp4", "r2.png"):
        (house.at / name).write_bytes(name.encode())
    house.write([{k: v for k, v in house.lines[0].items() if k != "mask_path"} | {"video_path": "v2.mp4", "reference_image": "r2.png"}, *house.lines])
    scan = house.scan()
    assert sorted(house.hashed) == ["r2.png", "v2.mp4"] and [line.line for line in scan.lines] == [1, 2, 3]
    assert scan == house.scan(memory=False)
    every = house.lines
    house.write(every[1:])
    house.scan()
    house.write(every)
    assert house.scan() == scan and house.hashed == [], "a line left out for a scan is still known"


@pytest.mark.parametrize("name", ["v0.mp4", "r0.png", "m0/00001.png"])
def test_other_bytes_of_the_same_size_and_date_are_noticed(house: House, name: str) -> None:
    before = house.scan()
    stat = (house.at / name).stat()
    (house.at / name).write_bytes((house.at / name).read_bytes()[::-1])
    os.utime(house.at / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = house.scan()
    assert Path(name).name in house.hashed and "v1.mp4" not in house.hashed
    assert after.fingerprint != before.fingerprint and after == house.scan(memory=False)


def test_a_link_led_elsewhere_a_frame_more_and_a_file_gone_are_noticed(house: House) -> None:
    (house.at / "v0.mp4").rename(house.at / "real.mp4")
    (house.at / "v0.mp4").symlink_to("real.mp4")
    before = house.scan()
    (house.at / "other.mp4").write_bytes(b"other")
    (house.at / "v0.mp4").unlink()
    (house.at / "v0.mp4").symlink_to("other.mp4")
    (house.at / "tm1.mp4").unlink()
    after = house.scan()
    assert after.lines[0].video_sha256 != before.lines[0].video_sha256 and [r.kind for r in after.refusals] == ["missing_mask"]
    (house.at / "m0" / "mine.png").write_bytes(b"x")
    assert [r.kind for r in house.scan().refusals] == ["mask_numbering", "missing_mask"]


def test_a_file_written_just_now_is_not_remembered(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_memory, "GRAIN_NS", 10**12)
    house.scan()
    house.scan()
    assert len(house.hashed) == 12


def test_a_torn_memory_or_one_under_other_rules_is_ignored(house: House) -> None:
    first = house.scan()
    house.scan(spec=ClipSpec(allow_outside_root=True))
    assert len(house.hashed) == 12
    (house.at / ".memory" / "m.json").write_text('{"head": [1')
    assert house.scan() == first and len(house.hashed) == 12
    assert [p.name for p in (house.at / ".memory").iterdir()] == ["m.json"]


def test_two_lines_of_the_same_bytes_are_refused_from_memory_too(house: House) -> None:
    (house.at / "copy.mp4").write_bytes(b"v0.mp4")
    house.write([*house.lines, house.lines[0] | {"video_path": "copy.mp4"}])
    assert [(r.line, r.kind, r.source) for r in house.scan().refusals] == [(3, "duplicate", "copy.mp4")]
    assert house.scan() == house.scan(memory=False) and [r.line for r in house.scan().refusals] == [3] and house.hashed == []


def test_a_number_that_the_memory_could_not_give_back_is_not_remembered(house: House) -> None:
    house.write([house.lines[0] | {"metadata": house.lines[0]["metadata"] | {"serial": 10**30}}, house.lines[1]])
    first = house.scan()
    assert house.scan() == first and house.scan().lines[0].metadata["serial"] == 10**30 and "v0.mp4" in house.hashed and "v1.mp4" not in house.hashed


def test_a_touched_file_is_hashed_once_more_and_no_oftener(house: House) -> None:
    first = house.scan()
    os.utime(house.at / "v1.mp4")
    assert house.scan() == first and "v1.mp4" in house.hashed and "v0.mp4" not in house.hashed
    assert house.scan() == first and house.hashed == []


@pytest.mark.parametrize(
    "kept", [b"", b"0", b"x{}", b"0[]", b"0null", b"05", b"0{}", b'0{"files": [], "line": {}}', b'0{"files": 5, "line": {}, "text": ""}']
)
def test_a_memory_of_the_wrong_types_is_ignored(house: House, kept: bytes) -> None:
    first = house.scan()
    path = house.at / ".memory" / "m.json"
    head, line, *others = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([head, line[: scan_memory.KEY] + kept, *others]))
    assert house.scan() == first and len(house.hashed) in (5, 7), "that line alone"


def test_a_line_that_no_scan_asks_for_is_forgotten_in_the_end(house: House) -> None:
    house.scan()
    every = house.lines
    sizes = []
    for i in range(scan_memory.KEPT_SCANS + 2):  # another line each time, so that the memory is written
        house.write([every[0] | {"text_prompt": f"Cup {i}."}])
        house.scan()
        sizes.append((house.at / ".memory" / "m.json").read_bytes().count(b"\n"))
    assert sizes == [*range(4, scan_memory.KEPT_SCANS + 4), *[scan_memory.KEPT_SCANS + 2] * 2]
    house.write(every)
    assert len(house.scan().lines) == 2 and "v1.mp4" in house.hashed


def test_a_file_that_changes_behind_its_hash_is_not_remembered(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the line's other files then take."""
    hash_of = manifest.sha256_of_file

    def and_then_written(path: str) -> str:
        found = hash_of(path)
        if str(path).endswith("v0.mp4"):
            (house.at / "v0.mp4").write_bytes(b"OTHER!")
        return found

    monkeypatch.setattr(manifest, "sha256_of_file", and_then_written)
    house.scan()
    monkeypatch.setattr(manifest, "sha256_of_file", hash_of)
    assert house.scan() == house.scan(memory=False)


def test_a_path_that_now_leads_to_the_same_file_elsewhere_is_followed(house: House) -> None:
    """Snapshots of hard links: current -> day2, and day1 is renamed away."""
    for day in ("day1", "day2"):
        (house.at / day).mkdir()
    (house.at / "v0.mp4").rename(house.at / "day1" / "v.mp4")
    os.link(house.at / "day1" / "v.mp4", house.at / "day2" / "v.mp4")
    (house.at / "current").symlink_to("day1")
    house.write([house.lines[0] | {"video_path": "current/v.mp4"}])
    house.scan()
    (house.at / "current").unlink()
    (house.at / "current").symlink_to("day2")
    (house.at / "day1").rename(house.at / "old")
    assert os.path.exists(house.scan().lines[0].video_path)
