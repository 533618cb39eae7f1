"""Copies are near, other clips are far; the clips of the nano world are no duplicates of one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pvtt_model.data.duplicates import COLOUR_BYTES, LEAST_STEPS, frame_hashes, near_pairs, pairs_between
from pvtt_model.data.video_io import decode, look, write_mp4
from pvtt_model.nano.world import render_clip, shots
from pvtt_model.specs import ClipSpec, NanoWorldSpec

MOST = ClipSpec().near_duplicate_bits
assert MOST is not None


def distance(a: str, b: str) -> float:
    return near_pairs([a, b], 64, unlike_cells=1)[0][2]


def hashed(frames_TCHW: torch.Tensor) -> str:
    return frame_hashes(list(frames_TCHW.permute(0, 2, 3, 1).contiguous().numpy()))


def packed(steps: np.ndarray) -> str:
    """The hash of steps (384) in grey levels, all colours alike."""
    parts = [part for each in np.split(steps, 6) for part in (each >= 2, each <= -2, each >= 6, each <= -6)]
    return b"".join(np.packbits(part).tobytes() for part in parts).hex() + "80" * COLOUR_BYTES


def by_counting(steps: np.ndarray, most: float) -> list[tuple[int, int, float]]:
    found = []
    for i in range(len(steps)):
        for j in range(i + 1, len(steps)):
            unlike = counted = 0
            for a, b in zip(steps[i].tolist(), steps[j].tolist(), strict=True):
                if max(abs(a), abs(b)) >= 6:
                    counted += 1
                    unlike += (abs(a) >= 6 and (a * b <= 0 or abs(b) < 2)) or (abs(b) >= 6 and (a * b <= 0 or abs(a) < 2))
            if counted >= LEAST_STEPS and 64 * unlike / counted <= most:
                found.append((i, j, 64 * unlike / counted))
    return found


def test_pairs_are_those_of_counting_step_by_step() -> None:
    generator = np.random.default_rng(0)
    steps = generator.integers(-12, 13, (40, 384))
    steps[30:] = np.where(generator.random((10, 384)) < 0.05, 0, steps[:10] + generator.integers(-2, 3, (10, 384)))
    steps[15:18, 5:] = 0  # too flat to be told apart
    hashes = [packed(row) for row in steps]
    for most in (0.0, 3.0, 5.0, 45.0):
        wanted = by_counting(steps, most)
        assert near_pairs(hashes, most) == wanted
        assert near_pairs(hashes, most, 35) == [pair for pair in wanted if pair[1] >= 35]
    gaps = [None if i % 7 == 0 else text for i, text in enumerate(hashes)]
    assert near_pairs(gaps, 9.0, 30) == [p for p in by_counting(steps, 9.0) if p[1] >= 30 and p[0] % 7 and p[1] % 7]
    apart = [(i, j - 30, bits) for i, j, bits in near_pairs(gaps, 9.0) if i < 30 <= j]
    assert pairs_between(gaps[:30], gaps[30:], 9.0) == apart and apart and pairs_between(gaps, [], 9.0) == pairs_between([], gaps, 9.0) == []
    assert near_pairs([], 5.0) == near_pairs([None, None], 5.0) == near_pairs(hashes[:1], 5.0) == []


def test_many_chunks_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [packed(row) for row in np.random.default_rng(1).integers(-12, 13, (100, 384))]
    whole = near_pairs(hashes, 45.0)
    monkeypatch.setattr("pvtt_model.data.duplicates.CHUNK_PAIRS", 250)
    assert near_pairs(hashes, 45.0) == whole and whole


def packshot(kind: int, noise: float, ground: int, seed: int) -> torch.Tensor:
    """A product of one of 15 shapes and textures on a plain studio ground, 5 frames, with sensor noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :320]
    rx, ry, grid = 30 + 12 * (kind % 5), 90 - 14 * (kind % 4), 6 + 5 * (kind % 3)
    inside = ((x - 160) / rx) ** 2 + ((y - 120) / ry) ** 2 < 1 if kind % 2 else (abs(x - 160) < rx) & (abs(y - 120) < ry)
    shade = 50 * (((x // grid) + (y // (grid + kind))) % 2) + (x - 160) / 3
    colour = np.array([30 + 40 * (kind % 5), 60 + 35 * (kind % 4), 150 - 45 * (kind % 3)])
    frame = np.where(inside[None], shade[None] + colour[:, None, None], ground)[None] + generator.normal(0, noise, (5, 3, 240, 320))
    return torch.from_numpy(np.clip(frame, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("ground", [255, 245, 128])
def test_products_on_a_plain_ground_are_told_apart_and_their_copies_are_found(ground: int) -> None:
    shots_of = [hashed(packshot(kind, 1.5, ground, kind)) for kind in range(15)]
    again = [hashed(packshot(kind, 1.5, ground, 100 + kind)) for kind in range(15)]
    assert len(near_pairs(shots_of, MOST)) <= 1, "of 105; two narrow boxes of like colours cover too few cells to be told apart"
    assert all(near_pairs([a, b], MOST) for a, b in zip(shots_of, again, strict=True))


def test_blank_clips_are_no_pair() -> None:
    blank = hashed(torch.full((5, 3, 64, 64), 250, dtype=torch.uint8))
    assert near_pairs([blank, blank], 64) == []


def test_no_two_clips_of_the_nano_world_are_near() -> None:
    spec = NanoWorldSpec(num_clips=200, num_validation=8, num_eval=64)
    hashes = [hashed(render_clip(spec, i).frames_TCHW) for i in range(len(shots(spec)))]
    nearest = min(bits for _, _, bits in near_pairs(hashes, 64, unlike_cells=1))
    print(f"\nnano, {len(hashes)} clips: the nearest two differ by {nearest:.1f} of 64 bits; the threshold is {MOST:g}")
    assert nearest > MOST + 2


def seen(path: Path) -> str:
    """The hash as ingest takes it: of the small pictures."""
    return frame_hashes(list(look(path, 33).thumbs_THWC))


@pytest.mark.parametrize("name", ["mug_pour", "red_cups"])
def test_copies_of_a_real_clip_are_near(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / "videos" / f"{name}.mp4"
    frames, own = decode(path, 33), seen(path)
    half = torch.nn.functional.interpolate(frames.float(), scale_factor=0.5, mode="bilinear", antialias=True).clamp(0, 255).byte()
    logo = frames.clone()
    logo[:, :, -60:, -200:] = 255
    found = {}
    for what, copy, crf in (
        ("re-encoded", frames, 32),
        ("half the size", half, 23),
        ("logo", logo, 23),
        ("cut by 1 %", frames[:, :, 4:-4, 8:-8], 23),
    ):
        write_mp4(tmp_path / "copy.mp4", copy, 15, crf=crf, preset="veryfast")
        found[what] = distance(own, seen(tmp_path / "copy.mp4"))
        assert near_pairs([own, seen(tmp_path / "copy.mp4")], 64), what
    print(f"\n{name}: " + ", ".join(f"{what} {bits:.1f}" for what, bits in found.items()))
    assert max(found.values()) <= MOST


def test_two_real_clips_are_far(shared_data: Path) -> None:
    assert distance(*(seen(shared_data / "videos" / f"{name}.mp4") for name in ("mug_pour", "red_cups"))) > 20
