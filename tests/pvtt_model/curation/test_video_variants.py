"""Variants of a clip in time: frames that are there, in order, of one shot, with their own masks; drawn from seed, clip and variant alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pvtt_model.curation.frames import as_seen
from pvtt_model.curation.masks import mask_of
from pvtt_model.curation.video_variants import LeftOut, ShotTimes, VideoVariant, clip_variants, shot_of, variant_frames
from pvtt_model.data.decode_worker import frames_at
from pvtt_model.data.video_io import look, png_bytes, write_mp4
from pvtt_model.evaluation.variant_sheet import variant_sheet
from pvtt_model.nano.world import render_clip
from pvtt_model.specs import ClipSpec, LatentSpec, MaskPolicy, MaskSpec, ModelSpec, NanoWorldSpec, VideoAugmentSpec, VideoSpec
from tests.pvtt_model.data.odd_files import number_of, write

STILL = VideoAugmentSpec(offset_s=0, rate_jitter=0)
MOST = ClipSpec().shot_threshold


def constant(num_frames: int, fps: float) -> ShotTimes:
    """A file of one shot."""
    return ShotTimes([i / fps for i in range(num_frames)], 0, num_frames, num_frames / fps)


@st.composite
def timed(draw: st.DrawFn) -> tuple[ShotTimes, list[int], float]:
    """Any file, a shot of it, and a clip in that shot whose frames are taken by their times."""
    gaps = draw(st.lists(st.floats(0.005, 0.5), min_size=1, max_size=60))
    starts = [round(sum(gaps[:i]), 6) for i in range(len(gaps) + 1)]
    first = draw(st.integers(0, len(gaps) - 1))
    end = draw(st.integers(first + 1, len(gaps)))
    fps = draw(st.floats(1, 60))
    begin = draw(st.integers(first, end - 1))
    used = frames_at(starts[:-1], starts[end], fps, draw(st.integers(1, 40)), starts[begin])
    return ShotTimes(starts[:-1], first, end, starts[end]), used, fps


@given(timed(), st.floats(0, 3), st.floats(0, 0.9), st.integers(1, 9))
@settings(deadline=None)
def test_frames_are_there_in_order_and_of_the_shot(given_: Any, offset_s: float, rate_jitter: float, variant: int) -> None:
    shot, used, fps = given_
    if not used:
        return
    got = variant_frames(shot, used, fps, VideoAugmentSpec(offset_s=offset_s, rate_jitter=rate_jitter), "a", variant)
    assert len(got) == len(used) and got == sorted(got) and shot.first <= got[0] and got[-1] < shot.end
    assert abs(shot.starts_s[got[0]] - shot.starts_s[used[0]]) <= offset_s + 0.0021
    assert variant_frames(shot, used, fps, STILL, "a", variant) == used, "no offset and no jitter is the clip as it is"


@given(st.integers(5, 60), st.integers(0, 40), st.integers(0, 40), st.sampled_from([12.0, 15.0, 23.976, 30.0]), st.integers(1, 9), st.data())
@settings(deadline=None)
def test_no_frame_repeats_where_none_does_in_the_clip(length: int, before: int, behind: int, own: float, variant: int, data: st.DataObject) -> None:
    shot = constant(before + length + behind, own)
    fps = data.draw(st.none() | st.floats(own / 3, own))
    used = list(range(before, before + length)) if fps is None else frames_at(shot.starts_s, shot.end_s, fps, length // 3 + 1, before / own)
    got = variant_frames(shot, used, fps, VideoAugmentSpec(), "a", variant)
    assert len(set(got)) == len(got) == len(used)
    assert 0.9 * (got[-1] - got[0]) <= used[-1] - used[0] + 2, "a tenth sparser at most, each end rounded to a frame"


def test_a_shot_as_long_as_the_clip_has_no_other_frames_and_one_frame_more_has_two_beginnings() -> None:
    used = list(range(9))
    assert all(variant_frames(constant(9, 16), used, None, VideoAugmentSpec(), "a", v) == used for v in range(1, 20))
    moved = {tuple(variant_frames(constant(10, 16), used, None, VideoAugmentSpec(rate_jitter=0), "a", v)) for v in range(1, 30)}
    assert moved == {tuple(range(9)), tuple(range(1, 10))}
    near = VideoAugmentSpec(offset_s=0.3, rate_jitter=0)
    begins = {variant_frames(constant(40, 10), list(range(10, 15)), None, near, "a", v)[0] for v in range(1, 60)}
    assert begins == set(range(7, 14)), "0.3 s are three frames either way"


def test_the_rate_is_within_its_jitter_and_what_the_shot_has_room_for() -> None:
    only_rate, used = VideoAugmentSpec(offset_s=0, rate_jitter=0.25), list(range(41))
    ends = {variant_frames(constant(200, 20), used, None, only_rate, "a", v)[-1] for v in range(1, 80)}
    assert ends == set(range(40, 54)), "40 / 0.75 frames on at most; denser than the file's own rate is not to be had"
    assert max(variant_frames(constant(44, 20), used, None, only_rate, "a", v)[-1] for v in range(1, 80)) == 43
    thinned = list(range(0, 82, 2))
    ends = {variant_frames(constant(200, 20), thinned, 10.0, only_rate, "a", v)[-1] for v in range(1, 200)}
    assert min(ends) == 64 and max(ends) in (105, 106), "80 / 1.25 to 80 / 0.75"


def test_a_small_wobble_of_the_times_moves_no_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    wobble = ((torch.rand(30, generator=generator) - 0.5) * 0.9 / 16).tolist()
    wobble[0] = wobble[9] = wobble[20] = 0.0
    shot = ShotTimes([i / 16 + w for i, w in enumerate(wobble)], 0, 30, 30 / 16)
    for used in (list(range(10)), list(range(9, 21))):
        assert variant_frames(shot, used, None, STILL, "a", 1) == used


def test_a_draw_hangs_on_seed_clip_and_variant_alone() -> None:
    shot, used = constant(300, 30), list(range(100, 141))

    def drawn(seed: int = 0, key: str = "a", variant: int = 1) -> list[int]:
        return variant_frames(shot, used, None, VideoAugmentSpec(seed=seed), key, variant)

    backwards = [drawn(variant=v) for v in (3, 2, 1)]
    assert backwards == [drawn(variant=v) for v in (1, 2, 3)][::-1]
    assert len({tuple(drawn()), tuple(drawn(seed=1)), tuple(drawn(key="b")), tuple(drawn(variant=2))}) == 4
    script = (
        "from tests.pvtt_model.curation.test_video_variants import *\n"
        "print(variant_frames(constant(300, 30), list(range(100, 141)), None, VideoAugmentSpec(), 'a', 1))"
    )
    env = {"PYTHONPATH": ":".join(p for p in sys.path if p), "PYTHONHASHSEED": "1"}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env, cwd=Path(__file__).parents[3])
    assert said.stdout.strip() == str(drawn()), "another process draws the same"


# ---- on real files


def spec(num_frames: int, fps: float | None = None, **changes: Any) -> LatentSpec:
    video = VideoSpec(width=64, height=48, num_frames=num_frames, fps=fps)
    vae = ModelSpec(architecture="nano-vae", weights="seed:0")
    return LatentSpec(video=video, vae=vae, mask_policy=MaskPolicy(kind="precise"), **{"video_variants": 4, **changes})


def columns(num_frames: int, without: int | None = None) -> list[bytes]:
    """A mask picture a frame: frame i's is the i-th column of 2 pixels."""
    masks = torch.zeros(num_frames, 48, 64, dtype=torch.bool)
    for i in range(num_frames):
        masks[i, :, 2 * i : 2 * i + 2] = i != without
    return [png_bytes(m) for m in masks]


def rows(path: Path, latents: LatentSpec, num_frames: int, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Clips and masks row of the file, as ingest and the masks' step make them."""
    found = look(path, latents.video.num_frames, latents.video.fps)
    clip = {"clip_key": "a", "video": path.read_bytes(), "mask_format": "png", "mask": columns(num_frames), "split": "train"} | changes
    clip |= {"used_frames": changes.get("used_frames", found.used if latents.video.fps else None)}
    return clip, mask_of(as_seen(clip), latents.video, MaskSpec())


def variants(clip: Any, mask: Any, latents: LatentSpec, threshold: float | None = MOST) -> list[VideoVariant | LeftOut]:
    return list(clip_variants(clip, mask, latents, MaskSpec(), threshold, 60))


def places(found: VideoVariant) -> list[int]:
    """The frame that each mask is of."""
    return [int(m[24].nonzero().float().mean()) // 2 for m in found.masks[0]]


@pytest.mark.parametrize(("fps", "times_ms"), [(None, None), (8.0, None), (8.0, [40 * i for i in range(10)] + [400 + 90 * i for i in range(14)])])
def test_frames_and_masks_are_those_drawn(tmp_path: Path, fps: float | None, times_ms: list[int] | None) -> None:
    write(tmp_path / "a.mp4", num_frames=24, times_ms=times_ms)
    latents = spec(5, fps, augment_video=VideoAugmentSpec(offset_s=0.5, rate_jitter=0.3))
    first, *others = variants(*rows(tmp_path / "a.mp4", latents, 24), latents, None)
    assert isinstance(first, VideoVariant) and first.used == look(tmp_path / "a.mp4", 5, fps).used
    kept = [found for found in others if isinstance(found, VideoVariant)]
    assert len(kept) >= 2 and len({tuple(f.used) for f in [first, *kept]}) == 1 + len(kept)
    for found in [first, *kept]:
        assert [number_of(frame) for frame in found.frames_TCHW] == [i % 20 for i in found.used] and places(found) == found.used
    assert [f.number for f in [first, *others]] == [0, 1, 2, 3]


def test_a_variant_stays_within_its_shot(tmp_path: Path) -> None:
    world = NanoWorldSpec(num_clips=8, num_eval=2, look_alikes=1, num_frames=12, width=64, height=64)
    scenes = [render_clip(world, i).frames_TCHW[:, :, 8:56] for i in range(3)]
    write_mp4(tmp_path / "a.mp4", torch.cat(scenes)[:32], 16, chroma="444")
    latents = spec(9, video_variants=12)
    clip, mask = rows(tmp_path / "a.mp4", latents, 32, used_frames=list(range(13, 22)))
    kept = [f.used for f in variants(clip, mask, latents) if isinstance(f, VideoVariant)]
    assert len(kept) > 2 and all(used[0] >= 12 and used[-1] < 24 for used in kept)
    assert not all(f.used[0] >= 12 and f.used[-1] < 24 for f in variants(clip, mask, latents, None) if isinstance(f, VideoVariant)), "ignored"
    found = look(tmp_path / "a.mp4", 9, None, True)
    assert found.starts_s is not None and shot_of(found, found.starts_s, range(13, 22), MOST)[1:] == (12, 24, 24 / 16)


def test_a_cut_that_only_the_variant_sees_leaves_it_out(tmp_path: Path) -> None:
    """A flash in frame 5; the clip sees the even frames alone."""
    world = NanoWorldSpec(num_clips=8, num_eval=2, look_alikes=1, num_frames=24, width=64, height=64)
    frames = render_clip(world, 0).frames_TCHW[:, :, 8:56].clone()
    frames[5] = 255 - frames[5]
    write_mp4(tmp_path / "a.mp4", frames, 16, chroma="444")
    latents = spec(5, 8.0, video_variants=9, augment_video=VideoAugmentSpec(offset_s=0.07, rate_jitter=0))
    clip, mask = rows(tmp_path / "a.mp4", latents, 24)
    assert clip["used_frames"] == [0, 2, 4, 6, 8]
    found = variants(clip, mask, latents)
    assert "a new shot begins in its frames" in [f.reason for f in found if isinstance(f, LeftOut)]
    assert not any(5 in f.used for f in found if isinstance(f, VideoVariant))


def test_what_has_no_variant_says_why(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", num_frames=24)
    latents = spec(5)
    clip, mask = rows(tmp_path / "a.mp4", latents, 24)
    for split in ("validation", "eval"):
        assert [f.number for f in variants(clip | {"split": split}, mask, latents)] == [0], "held-out clips are seen as they are"
    first, *others = variants(clip, mask | {"provenance": "grabcut"}, latents)
    assert isinstance(first, VideoVariant) and all(isinstance(f, LeftOut) and "found (grabcut)" in f.reason for f in others) and len(others) == 3
    (unreadable,) = variants(clip | {"video": b"none"}, mask, latents)
    assert isinstance(unreadable, LeftOut) and unreadable.number == 0
    gap = {"mask": columns(24, without=7)}
    said = [f.reason for f in variants(clip | gap, mask, spec(5, video_variants=12)) if isinstance(f, LeftOut)]
    assert any("mask is empty in 1 of 5 frames" in reason for reason in said), said
    short = clip | {"video": (write(tmp_path / "s.mp4", num_frames=5), (tmp_path / "s.mp4").read_bytes())[1]}
    assert ["the shot has 5 frames" in f.reason for f in variants(short, mask, latents) if isinstance(f, LeftOut)] == [True] * 3


def test_the_sheet_shows_every_variant_and_every_reason(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", num_frames=24)
    latents = spec(5, variants=2)
    clip, mask = rows(tmp_path / "a.mp4", latents, 24)
    found = variants(clip, mask, latents)
    with Image.open(variant_sheet([(clip, found), (clip, [found[0], LeftOut(1, "why")])], tmp_path / "s.png")) as sheet:
        assert sheet.width > 4 * 3 * 120 and sheet.height > 4 * 120
    with Image.open(variant_sheet([], tmp_path / "none.png")) as sheet:
        assert sheet.size == (600, 34)
