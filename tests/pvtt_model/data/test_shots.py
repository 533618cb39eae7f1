"""Cuts: found where they are, in no moving clip, and refused or split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pvtt_model.curation.frames import as_seen
from pvtt_model.data.duplicates import frame_hashes
from pvtt_model.data.ingest import inspect
from pvtt_model.data.manifest import read_manifest
from pvtt_model.data.refusals import Refusal
from pvtt_model.data.shards import BYTES, count_rows, iter_rows, read_row, read_rows, write_clip_shard
from pvtt_model.data.shots import cuts
from pvtt_model.data.video_io import decode, look, png_bytes, write_mp4
from pvtt_model.nano.world import render_clip
from pvtt_model.recipes import NANO, NANO_WIDE
from pvtt_model.specs import ClipSpec, NanoWorldSpec, VideoSpec

MOST = ClipSpec().shot_threshold
SCENES = NanoWorldSpec(num_clips=8, num_eval=2, look_alikes=1, num_frames=12)


def scene(i: int, num_frames: int = 12) -> torch.Tensor:
    return render_clip(SCENES, i).frames_TCHW[:num_frames]


def thumbs(frames_TCHW: torch.Tensor) -> np.ndarray:
    return frames_TCHW.permute(0, 2, 3, 1).contiguous().numpy()


def test_cuts_between_scenes_are_found_to_the_frame() -> None:
    for i in range(7):
        for first, second in ((1, 12), (2, 3), (5, 5), (11, 1)):
            joined = torch.cat([scene(i, first), scene(i + 1, second)])
            assert cuts(thumbs(joined), MOST) == [first], (i, first)
    three = torch.cat([scene(0, 6), scene(1, 6), scene(2, 6)])
    assert cuts(thumbs(three), MOST) == [6, 12] and cuts(thumbs(three[:1]), MOST) == []


def test_no_nano_clip_is_cut() -> None:
    for spec, clips in ((NANO.world, range(0, 1216, 8)), (NANO.world, (61, 331, 493, 775, 880)), (NANO_WIDE.world, range(12))):
        assert not [i for i in clips if cuts(thumbs(render_clip(spec, i).frames_TCHW), MOST)]


def test_no_cut_in_the_shared_clips_and_one_where_they_are_joined(shared_data: Path, tmp_path: Path) -> None:
    both = [shared_data / "videos" / f"{name}.mp4" for name in ("mug_pour", "red_cups")]
    for path in both:
        for fps in (None, 16, 8):
            assert cuts(look(path, 41, fps).thumbs_THWC, MOST) == []
    write_mp4(tmp_path / "joined.mp4", torch.cat([decode(path, 12) for path in both]), 15, preset="veryfast")
    assert cuts(look(tmp_path / "joined.mp4", 24).thumbs_THWC, MOST) == [12]


def ingested(folder: Any, frames: torch.Tensor, spec: ClipSpec, video: VideoSpec, **changes: Any) -> list[Any]:
    write_mp4(folder.path / "cut.mp4", frames, 16, chroma="444")
    metadata = {"num_frames": len(frames), "resolution": [frames.shape[3], frames.shape[2]], **changes.pop("metadata", {})}
    path = folder.manifest([folder.line(**{"video_path": "cut.mp4", "mask_path": None, "metadata": metadata, **changes})])
    (line,) = read_manifest(path, str(path), spec, lambda uri: Path(uri)).lines
    return inspect(line, spec, video)


def video(num_frames: int = 9, fps: float | None = None) -> VideoSpec:
    return VideoSpec(width=64, height=64, num_frames=num_frames, fps=fps)


def test_a_cut_among_the_used_frames_refuses_the_clip(folder: Any) -> None:
    frames = torch.cat([scene(0, 6), scene(1)])
    (refusal,) = ingested(folder, frames, ClipSpec(), video())
    assert isinstance(refusal, Refusal) and refusal.kind == "shot_cut"
    assert "a new shot begins at 0.38 s" in refusal.reason and "clips.shots=split" in refusal.reason
    for spec, seen in ((ClipSpec(), video(5)), (ClipSpec(shots="ignore"), video()), (ClipSpec(shot_threshold=200), video())):
        (row,) = ingested(folder, frames, spec, seen)
        assert not isinstance(row, Refusal) and row["start_s"] is None and row["used_frames"] is None
    (timed,) = ingested(folder, frames, ClipSpec(), video(5, fps=8))
    assert isinstance(timed, Refusal) and "at 0.38 s" in timed.reason, "frames 0, 2, 4, 6, 8 are seen: the cut is at 6"


@pytest.mark.parametrize("fps", [None, 16.0, 8.0])
def test_split_makes_a_clip_of_each_long_enough_shot(folder: Any, fps: float | None) -> None:
    frames, seen = torch.cat([scene(0), scene(1, 4), scene(2, 11)]), video(9 if fps != 8 else 5, fps)
    first, short, last = ingested(folder, frames, ClipSpec(shots="split"), seen)
    step = 2 if fps == 8 else 1
    assert first["used_frames"] == list(range(0, 9, step)) and last["used_frames"] == list(range(16, 25, step))
    assert (first["start_s"], last["start_s"]) == (0.0, 1.0) and len({first["clip_key"], last["clip_key"], first["video"][:0]}) == 3
    assert isinstance(short, Refusal) and short.kind == "too_short" and "from 0.75 s to 1.00 s" in short.reason and "at 8" in short.reason + " at 8"
    shown = decode(as_seen(last)["video"], seen.num_frames)
    assert (shown.float() - scene(2, 9)[::step].float()).abs().mean() < 4
    assert first["frame_hashes"] != last["frame_hashes"]
    (whole,) = ingested(folder, scene(0), ClipSpec(shots="split"), seen)
    assert whole["start_s"] is None and whole["used_frames"] == (first["used_frames"] if fps else None), "a video of one shot is as without split"


def test_no_shot_long_enough_is_one_refusal(folder: Any) -> None:
    (refusal,) = ingested(folder, torch.cat([scene(0, 6), scene(1, 7)]), ClipSpec(shots="split"), video())
    assert isinstance(refusal, Refusal) and refusal.kind == "shot_cut"
    assert "the longest of 2 shots is 0.44 s from 0.38 s on, shorter than the 9 frames that the model sees" in refusal.reason


def large(i: int, num_frames: int) -> torch.Tensor:
    """A scene at four times its size, in noise, so that the file is large beside what a row says."""
    frames = scene(i, num_frames).repeat_interleave(4, 2).repeat_interleave(4, 3).int()
    return (frames + torch.randint(-12, 13, frames.shape, generator=torch.Generator().manual_seed(i))).clamp(0, 255).to(torch.uint8)


def test_a_files_bytes_are_stored_once_for_all_its_shots(folder: Any, tmp_path: Path) -> None:
    """The first shot is too short: the one that has the bytes is the first that became a row."""
    frames = torch.cat([large(0, 4), large(1, 9), large(2, 9), large(3, 9)])
    masks = folder.path / "cut_masks"
    masks.mkdir()
    for i in range(len(frames)):
        inside = torch.zeros(256, 256, dtype=torch.bool)
        inside[i : i + 50, 10:90] = True
        (masks / f"{i:05d}.png").write_bytes(png_bytes(inside))
    found = ingested(folder, frames, ClipSpec(shots="split"), video(), mask_path="cut_masks")
    assert [isinstance(row, Refusal) for row in found] == [True, False, False, False]
    rows, size = found[1:], (folder.path / "cut.mp4").stat().st_size
    assert len(rows[0]["mask"]) == 31 and rows[0]["references"]
    path = tmp_path / "shard.parquet"
    assert write_clip_shard(path, rows) == 3 == count_rows(path)
    assert size < path.stat().st_size < 1.2 * size
    assert read_rows(path) == rows == [read_row(path, i) for i in range(3)] == list(iter_rows(path)), "whole, as they were given"
    assert len({id(row["video"]) for row in read_rows(path)}) == 1, "and in memory once"
    for i, row in enumerate(rows):
        for columns in (["references"], ["clip_key"], ["video", "used_frames"], ["mask", "line"]):
            assert read_row(path, i, columns) == {name: row[name] for name in columns} == read_rows(path, columns)[i]
    shown = decode(as_seen(read_row(path, 2))["video"], 9)
    assert (shown.float() - large(3, 9).float()).abs().mean() < 6


def test_clips_of_other_lines_keep_their_own_bytes(folder: Any, tmp_path: Path) -> None:
    one, two = ({**ingested(folder, scene(0), ClipSpec(), video())[0], "line": line} for line in (1, 2))
    write_clip_shard(tmp_path / "both", [one, two])
    assert b"pvtt.held_by" not in (tmp_path / "both").read_bytes(), "a shard without shots is, byte for byte, as before"
    shot = one | {"clip_key": "later", "used_frames": [1, 2]}
    other = shot | {"references": [b"another"]}
    write_clip_shard(tmp_path / "mixed", [one, shot, two, two | {"clip_key": "x"}, other])
    assert read_rows(tmp_path / "mixed") == [one, shot, two, two | {"clip_key": "x"}, other]
    assert all(name in one for name in BYTES)


def test_the_truths_hashes_are_of_the_shot(folder: Any) -> None:
    frames, true = torch.cat([scene(0, 9), scene(1, 9)]), torch.cat([scene(4, 9), scene(5, 9)])
    write_mp4(folder.path / "true.mp4", true, 16, chroma="444")
    at = folder.path / "true_masks"
    at.mkdir()
    for i in range(len(true)):
        (at / f"{i:05d}.png").write_bytes(png_bytes(torch.ones(64, 64, dtype=torch.bool)))
    told = {"truth": {"product_id": "b", "video_path": "true.mp4", "mask_path": "true_masks"}}
    first, last = ingested(folder, frames, ClipSpec(shots="split"), video(), metadata=told)
    seen = [np.asarray(frame) for frame in decode(folder.path / "true.mp4").permute(0, 2, 3, 1).numpy()]
    assert [row["truth_frame_hashes"] for row in (first, last)] == [frame_hashes(seen[:9]), frame_hashes(seen[9:])]
    (ignored,) = ingested(folder, frames, ClipSpec(shots="ignore"), video(), metadata=told)
    assert ignored["truth_frame_hashes"] == frame_hashes(seen[:9])
    (whole,) = ingested(folder, frames, ClipSpec(shots="split", shot_threshold=250), video(), metadata=told)
    assert whole["truth_frame_hashes"] == frame_hashes(seen[:9]), "a video of one shot is as without split"
