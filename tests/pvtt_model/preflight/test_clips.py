"""Clips of a nano world with what goes wrong in real ones: masks of too few frames, of another size, or of too much of the frame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pvtt_model.data.manifest import read_manifest
from pvtt_model.data.video_io import write_mp4
from pvtt_model.nano.world import write_world
from pvtt_model.preflight.clips import clips_checks, spread
from pvtt_model.recipes import NANO
from pvtt_model.specs import NanoWorldSpec

WORLD = NanoWorldSpec(num_clips=3, num_eval=2, look_alikes=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_world(WORLD, root)
    return root


def look(root: Path, **masks: torch.Tensor):
    """The checks by name; masks: of line N (from 1). The others have a tenth of the frame: some of the world's own are at risk."""
    lines = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    for name, mask_THW in ({f"line{n}": square(5, 20) for n in range(1, len(lines) + 1)} | masks).items():
        file = root / f"{name}-{len(mask_THW)}-{mask_THW.shape[-1]}.mp4"
        write_mp4(file, (mask_THW[:, None].expand(-1, 3, -1, -1) * 255).to(torch.uint8).contiguous(), 8)
        lines[int(name.removeprefix("line")) - 1]["mask_path"] = file.name
    manifest = root / "some.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scan = read_manifest(manifest, str(manifest), NANO.clips, Path)
    return {c.name: c for c in clips_checks(scan.lines, scan.refusals, len(lines), NANO)}


def square(frames: int, side: int, size: int = 64) -> torch.Tensor:
    mask = torch.zeros(frames, size, size)
    mask[:, 4 : 4 + side, 4 : 4 + side] = 1
    return mask


def test_good_clips_pass_and_it_is_said_how_many_were_looked_at(world):
    found = look(world)
    assert {c.status for c in found.values()} == {"ok"}, found
    assert found["clips"].what.endswith("5 of 5 lines looked at") and found["masks"].got == "5 agree"


def test_a_mask_of_fewer_frames_and_one_of_another_size(world):
    found = look(world, line1=square(3, 20), line2=square(5, 20, size=48))
    assert found["masks"].status == "warn" and found["masks"].got.startswith("2 disagree, 3 agree")
    assert "mask has 3 frames; the video has 5" in found["masks"].got and found["clips"].status == "ok"


def test_a_mask_of_half_the_frame_is_at_risk(world):
    found = look(world, line1=square(5, 44), line3=torch.zeros(5, 64, 64))
    assert found["mask risk"].status == "warn"
    assert found["mask risk"].got.startswith("of 5 measured 1 at risk, 1 unusable; e.g. line 3")


def test_all_refused_is_a_failure(world):
    short = {f"line{n}": square(3, 20) for n in range(1, 6)}
    found = look(world, **short)
    assert (found["masks"].status, found["mask risk"].status) == ("fail", "skipped")


def test_lines_looked_at_are_spread():
    assert spread(3, 12) == [0, 1, 2] and spread(100, 4) == [0, 33, 66, 99] and spread(100, 1) == [0] and spread(0, 5) == []
