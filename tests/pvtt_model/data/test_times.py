"""Frames taken by their times: which, in what order, and the masks with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model.curation.frames import as_seen, frames_and_mask
from pvtt_model.curation.masks import mask_of
from pvtt_model.data import video_io
from pvtt_model.data.decode_worker import frames_at
from pvtt_model.data.ingest import inspect
from pvtt_model.data.manifest import read_manifest
from pvtt_model.data.refusals import Refusal
from pvtt_model.data.video_io import Picked, VideoUnreadable, decode, decode_at, look, png_bytes, probe, write_mp4
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import ClipSpec, MaskSpec, VideoSpec
from tests.pvtt_model.data.odd_files import number_of, write

UNEVEN_MS = [0, 40, 80, 120, 160, 200, 400, 600, 800, 1000, 1200, 1400]  # 25 frames a second, then 5


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(("fps", "wanted"), [(5, [0, 5, 6, 7, 8]), (10, [0, 2, 5, 5, 6]), (25, [0, 1, 2, 3, 4]), (4, [0, 5, 6, 7, 9])])
def test_uneven_frames_are_those_shown_at_the_time(tmp_path: Path, name: str, fps: float, wanted: list[int]) -> None:
    write(tmp_path / name, times_ms=UNEVEN_MS)
    found = look(tmp_path / name, 5, fps)
    assert found.used == wanted and found.starts_s is not None
    assert [round(1000 * s) for s in found.starts_s] == UNEVEN_MS
    picked = Picked((tmp_path / name).read_bytes(), tuple(found.used))
    assert [number_of(f) for f in decode(picked)] == wanted == [number_of(f) for f in decode(picked, 5)]
    assert [number_of(f) for f in decode_at(picked, [4, 0])[1]] == [wanted[4], wanted[0]] and probe(picked).num_frames == 12
    assert len(found.thumbs_THWC) == len(found.looked) == len(set(wanted))
    with pytest.raises(VideoUnreadable, match="5 frames of the video are used; 6 are asked for"):
        decode(picked, 6)


@given(st.lists(st.floats(0.005, 0.5), min_size=1, max_size=40), st.floats(1, 60), st.integers(1, 60))
def test_each_is_the_last_that_has_begun(gaps: list[float], fps: float, num_frames: int) -> None:
    starts = [sum(gaps[:i]) for i in range(len(gaps))]
    end = sum(gaps)
    used = frames_at(starts, end, fps, num_frames)
    assert used == sorted(used) and len(used) <= num_frames
    for k, i in enumerate(used):
        assert starts[i] <= k / fps + 0.0011 and (i + 1 == len(starts) or starts[i + 1] > k / fps + 0.0009)
    assert len(used) == num_frames or len(used) / fps >= end - 0.0011, "it ends where the video does, and not before"


def test_a_video_of_the_wanted_rate_is_taken_frame_by_frame(tmp_path: Path) -> None:
    for fps in (12, 15, 16, 24, 25, 30):
        for name in ("a.mp4", "a.mkv"):
            write(tmp_path / name, num_frames=20, fps=fps)
            assert look(tmp_path / name, 20, fps).used == list(range(20)), (fps, name)


@pytest.mark.parametrize(
    ("codec", "params"),
    [
        ("libx265", {"x265-params": "keyint=10:bframes=3:open-gop=1:log-level=none:pools=1"}),
        ("libx264", {"x264-params": "keyint=10:bframes=3:open-gop=1"}),
        ("libvpx-vp9", {"g": "10"}),
    ],
)
def test_frames_are_the_right_ones_behind_every_key_frame(tmp_path: Path, codec: str, params: dict[str, str]) -> None:
    """decord's seeking gave the next frame behind the open key frames of HEVC: 11 for 10, 12 for 11, 13 for 12."""
    path = tmp_path / ("a.webm" if codec == "libvpx-vp9" else "a.mp4")
    write(path, num_frames=60, codec=codec, fps=30, options=params)
    for wanted in (list(range(0, 60, 2)), [5, 6, 7, 29, 30, 31, 52], [33, 10, 10, 50]):
        assert [number_of(f) for f in decode_at(path, wanted)[1]] == [i % 20 for i in wanted]
    found = look(path, 30, 15)
    assert found.used == list(range(0, 60, 2))
    assert [number_of(torch.tensor(t).permute(2, 0, 1)) for t in found.thumbs_THWC] == [i % 20 for i in found.used]


def uneven_line(folder: Any, **changes: Any) -> dict[str, Any]:
    write(folder.path / "uneven.mp4", times_ms=UNEVEN_MS)
    metadata: dict[str, Any] = {"fps": None, "num_frames": 12}
    return folder.line(video_path="uneven.mp4", metadata=metadata, **changes)


def ingested(folder: Any, line: dict[str, Any], video: VideoSpec) -> Any:
    path = folder.manifest([line])
    scan = read_manifest(path, str(path), ClipSpec(), lambda uri: Path(uri))
    assert not scan.refusals, scan.refusals
    return inspect(scan.lines[0], ClipSpec(), video)[0]


def moving_masks(path: Path, kind: str) -> str:
    """A mask a frame: frame i's is the i-th column of 5 pixels."""
    masks = torch.zeros(12, 48, 64, dtype=torch.bool)
    for i in range(12):
        masks[i, :, 5 * i : 5 * i + 5] = True
    if kind == "video":
        write_mp4(path / "m.mp4", masks[:, None].repeat(1, 3, 1, 1).to(torch.uint8) * 255, 16, crf=0, chroma="444")
        return "m.mp4"
    (path / "m").mkdir()
    for i, mask in enumerate(masks):
        (path / "m" / f"{i:05d}.png").write_bytes(png_bytes(mask))
    return "m"


@pytest.mark.parametrize("kind", ["video", "png"])
def test_masks_and_frames_follow_the_same_times(folder: Any, kind: str) -> None:
    video = VideoSpec(width=64, height=48, num_frames=5, fps=5)
    row = ingested(folder, uneven_line(folder, mask_path=moving_masks(folder.path, kind)), video)
    assert not isinstance(row, Refusal), row
    assert row["used_frames"] == [0, 5, 6, 7, 8] and row["num_frames"] == 12
    seen = as_seen(row)
    assert as_seen(seen) is seen, "what is seen is not picked from twice"
    mask = mask_of(seen, video, MaskSpec())
    assert mask["usable"] and len(mask["mask"]) == 5, mask["reason"]
    frames, masks = frames_and_mask(row, mask, video)
    assert [number_of(f) for f in frames] == [0, 5, 6, 7, 8]
    assert [int(m[24].nonzero().float().mean()) // 5 for m in masks] == [0, 5, 6, 7, 8]


def test_a_row_of_before_is_seen_as_it_is(folder: Any) -> None:
    row = ingested(folder, folder.line(), VideoSpec(width=64, height=48, num_frames=9))
    assert row["used_frames"] is None and as_seen(row) is row
    del row["used_frames"]
    assert as_seen(row) is row


def test_too_short_is_said_in_seconds(folder: Any) -> None:
    refusal = ingested(folder, uneven_line(folder, mask_path=None), VideoSpec(width=64, height=48, num_frames=9, fps=5))
    assert isinstance(refusal, Refusal) and refusal.kind == "too_short"
    assert "video ends at 1.60 s; the last of 9 frames at 5 a second is wanted at 1.60 s" in refusal.reason


def test_without_times_nothing_is_guessed(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = video_io.look

    def timeless(*args: Any, **kwargs: Any) -> video_io.Look:
        return whole(*args, **kwargs)._replace(starts_s=None, used=[])

    monkeypatch.setattr(video_io, "look", timeless)
    refusal = ingested(folder, folder.line(), VideoSpec(width=64, height=48, num_frames=5, fps=5))
    assert isinstance(refusal, Refusal) and refusal.kind == "no_times" and "latents.video.fps=null" in refusal.reason


def test_the_truth_follows_too(folder: Any) -> None:
    shutil.copy(folder.path / folder.video("t.mp4", 5), folder.path / "true.mp4")
    truth = {"product_id": "b", "video_path": "true.mp4", "mask_path": folder.masks("true_masks")}
    row = ingested(folder, folder.line(metadata={"truth": truth}), VideoSpec(width=64, height=48, num_frames=5, fps=8))
    assert not isinstance(row, Refusal) and row["used_frames"] == [0, 2, 4, 6, 8]
    seen = as_seen(row)
    assert decode(seen["truth_video"]).shape[0] == 5 and seen["truth_mask"] == [row["truth_mask"][i] for i in (0, 2, 4, 6, 8)]


def test_the_survey_sees_16_frames_a_second_and_nano_the_files_own() -> None:
    assert recipe_by_name("full").latents.video.fps == 16.0 == recipe_by_name("wan2.1-vace-1.3b").latents.video.identity()["fps"]
    nano = recipe_by_name("nano").latents.video
    assert nano.fps is None and "fps" not in nano.identity(), "what was made before this setting came keeps its name"
    with pytest.raises(ValueError, match="greater than 0"):
        recipe_by_name("nano", {"latents.video.fps": 0})


def test_real_clips_at_16_frames_a_second(shared_data: Path) -> None:
    found = look(shared_data / "videos" / "mug_pour.mp4", 81, 16)
    assert found.facts.fps == 15 and found.used == [k * 15 // 16 for k in range(81)]
