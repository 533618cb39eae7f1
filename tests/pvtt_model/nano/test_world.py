from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pvtt_model.data.ingest import inspect
from pvtt_model.data.manifest import read_manifest
from pvtt_model.data.refusals import Refusal
from pvtt_model.data.video_io import decode, png_mask
from pvtt_model.nano.fingerprint import world_fingerprint
from pvtt_model.nano.shapes import SHAPES, unit_size
from pvtt_model.nano.world import product_of, render_clip, render_reference, write_world
from pvtt_model.specs import ClipSpec, NanoWorldSpec, VideoSpec

SPEC = NanoWorldSpec(num_clips=3)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    first = write_world(SPEC, tmp_path / "a", lambda i, n: done.append((i, n)))
    write_world(SPEC, tmp_path / "b")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 1 + 3 + 3 * 9 + 2 * 2 and first.name == "manifest.jsonl" and done == [(1, 3), (2, 3), (3, 3)]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert not torch.equal(render_clip(SPEC, 0).frames_TCHW, render_clip(NanoWorldSpec(seed=1), 0).frames_TCHW)


def test_outside_the_mask_there_is_no_trace_of_the_product() -> None:
    clip, other = render_clip(SPEC, 0), render_clip(SPEC, 0, product_of(SPEC, 2))
    assert clip.product != other.product
    outside = ~(clip.mask_THW | other.mask_THW)
    same = (clip.frames_TCHW == other.frames_TCHW).all(1)
    assert same[outside].all() and outside.float().mean() > 0.4
    only = clip.mask_THW & ~other.mask_THW
    assert (~same[only]).float().mean() > 0.9  # inside, the product is seen


@pytest.mark.parametrize("size", [(64, 64), (224, 128), (48, 96)])
def test_the_product_fills_a_fair_share_and_stays_in_view(size: tuple[int, int]) -> None:
    spec = NanoWorldSpec(width=size[0], height=size[1], num_frames=5)
    for index in range(0, 16, 2):
        area = render_clip(spec, index).mask_THW.float().mean((1, 2))
        assert area.min() > 0.09 and area.max() < 0.32, (index, area)


def test_products_differ_and_are_shown_twice() -> None:
    products = [product_of(SPEC, i) for i in range(200)]
    assert len(set(products)) == 100 and products[0] == products[1] != products[2]
    assert all(0.5 < unit_size(s)[0] < 3 and unit_size(s)[1] < 1.5 for s in SHAPES)


def test_fingerprint_needs_no_rendering_and_follows_the_spec() -> None:
    assert world_fingerprint(SPEC) == world_fingerprint(NanoWorldSpec(num_clips=3)) != world_fingerprint(NanoWorldSpec(num_clips=3, seed=1))


def test_references_show_the_product_on_plain_ground() -> None:
    first, second = (render_reference(SPEC, product_of(SPEC, 0), view) for view in (0, 1))
    assert first.shape == (3, 64, 64) and not torch.equal(first, second)
    assert (first[:, :3] == first[:, :1, :1]).all()


def test_the_written_world_passes_its_own_door(tmp_path: Path) -> None:
    path = write_world(SPEC, tmp_path)
    scan = read_manifest(path, str(path), ClipSpec(), lambda uri: Path(uri))
    assert len(scan.lines) == 3 and not scan.refusals
    for i, line in enumerate(scan.lines):
        row = inspect(line, ClipSpec(), VideoSpec(width=64, height=64, num_frames=9))
        assert not isinstance(row, Refusal), row
        clip = render_clip(SPEC, i)
        assert torch.equal(torch.stack([png_mask(m) for m in row["mask"]]), clip.mask_THW)
        assert (decode(row["video"]).float() - clip.frames_TCHW.float()).abs().mean() < 6
        assert json.loads(row["metadata"])["product_id"] == row["product_id"] == clip.product.product_id
