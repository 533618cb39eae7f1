"""Copies are near, other clips are far; the clips of the nano world are no duplicates of one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pvtt_model.data.duplicates import frame_hashes, near_pairs
from pvtt_model.data.video_io import decode, look, write_mp4
from pvtt_model.nano.world import render_clip, shots
from pvtt_model.specs import ClipSpec, NanoWorldSpec

MOST = ClipSpec().near_duplicate_bits
assert MOST is not None


def distance(a: str, b: str) -> float:
    return near_pairs([a, b], 64)[0][2]


def hashed(frames_TCHW: torch.Tensor) -> str:
    return frame_hashes(list(frames_TCHW.permute(0, 2, 3, 1).contiguous().numpy()))


def test_pairs_are_those_of_counting_bit_by_bit() -> None:
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2, (60, 384), dtype=np.uint8)
    bits[40:] = bits[:20] ^ (generator.random((20, 384)) < 0.05)
    hashes = [np.packbits(row).tobytes().hex() for row in bits]
    slow = [(i, j, float((bits[i] != bits[j]).sum()) / 6) for i in range(60) for j in range(i + 1, 60)]
    for most in (0.0, 3.0, 5.0, 31.0):
        wanted = [pair for pair in slow if pair[2] <= most]
        assert near_pairs(hashes, most) == wanted
        assert near_pairs(hashes, most, 50) == [pair for pair in wanted if pair[1] >= 50]
    gaps = [None if i % 7 == 0 else text for i, text in enumerate(hashes)]
    assert near_pairs(gaps, 5.0, 30) == [p for p in slow if p[2] <= 5 and p[1] >= 30 and p[0] % 7 and p[1] % 7]
    assert near_pairs([], 5.0) == near_pairs([None, None], 5.0) == near_pairs(hashes[:1], 5.0) == []


def test_many_chunks_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    hashes = [generator.bytes(48).hex() for _ in range(100)]
    whole = near_pairs(hashes, 31.5)
    monkeypatch.setattr("pvtt_model.data.duplicates.CHUNK_PAIRS", 250)
    assert near_pairs(hashes, 31.5) == whole and whole


def test_no_two_clips_of_the_nano_world_are_near() -> None:
    spec = NanoWorldSpec(num_clips=200, num_validation=8, num_eval=64)
    hashes = [hashed(render_clip(spec, i).frames_TCHW) for i in range(len(shots(spec)))]
    nearest = min(bits for _, _, bits in near_pairs(hashes, 64))
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
    print(f"\n{name}: " + ", ".join(f"{what} {bits:.1f}" for what, bits in found.items()))
    assert max(found.values()) <= MOST


def test_two_real_clips_are_far(shared_data: Path) -> None:
    assert distance(*(seen(shared_data / "videos" / f"{name}.mp4") for name in ("mug_pour", "red_cups"))) > 20
