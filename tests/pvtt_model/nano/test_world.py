from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from pvtt_model.data.ingest import inspect
from pvtt_model.data.manifest import read_manifest
from pvtt_model.data.refusals import Refusal
from pvtt_model.data.video_io import decode, png_bytes, png_frame, png_mask
from pvtt_model.nano.fingerprint import world_fingerprint
from pvtt_model.nano.products import split_of
from pvtt_model.nano.world import FIRST, render_clip, render_reference, shots, write_world
from pvtt_model.specs import ClipSpec, NanoWorldSpec, VideoSpec

SPEC = NanoWorldSpec(num_clips=3, num_validation=1, num_eval=4, look_alikes=2)
MANY = NanoWorldSpec(num_clips=3000, num_validation=500, num_eval=500)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(SPEC, tmp_path_factory.mktemp("world"))


def test_the_same_seed_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    write_world(SPEC, tmp_path / "again", lambda i, n: done.append((i, n)))
    first, again = files_of(written.parent), files_of(tmp_path / "again")
    assert first == again and done == [(i + 1, 8) for i in range(8)]
    assert len(first) == 1 + 8 * (1 + 5 + 2) + 4 * (1 + 5)
    other = SPEC.model_copy(update={"seed": 1})
    assert not torch.equal(render_clip(SPEC, 0).frames_TCHW, render_clip(other, 0).frames_TCHW)


def test_a_clip_is_the_same_in_a_larger_world(written: Path, tmp_path: Path) -> None:
    more = SPEC.model_copy(update={"num_clips": 60, "num_validation": 3, "num_eval": 8})
    write_world(more, tmp_path)
    first, larger = files_of(written.parent), files_of(tmp_path)
    shared = [name for name in first if name != "manifest.jsonl" and "truth" not in name]
    assert all(first[name] == larger[name] for name in shared)  # other neighbours in the renderer's batch change no bit


def test_no_product_is_in_two_splits_or_clips() -> None:
    world = shots(MANY)
    assert Counter(s.split for s in world) == {"train": 3000, "validation": 500, "eval": 500}
    assert len({s.product for s in world}) == 4000 and len({s.number for s in world}) == 4000
    assert all(split_of(s.product) == s.split and s.number >= FIRST[s.split] for s in world)
    assert [s.split for s in world] == sorted((s.split for s in world), key=list(FIRST).index)


def test_eval_products_come_in_families_and_truths_from_another() -> None:
    held_out = shots(MANY)[3500:]
    for start in range(0, 500, MANY.look_alikes):
        family = {s.product.look_alikes for s in held_out[start : start + MANY.look_alikes]}
        assert len(family) == 1 and family.isdisjoint({"white-black", "black-white"})
    assert len({s.product.look_alikes for s in held_out}) == 63
    assert Counter(s.truth for s in held_out) == Counter(s.product for s in held_out)
    assert all(s.truth and s.truth.look_alikes != s.product.look_alikes for s in held_out)
    assert all(s.truth is None for s in shots(MANY)[:3500])


@pytest.mark.parametrize(("count", "family"), [(2, 8), (8, 8), (12, 8), (3, 1), (7, 2)])
def test_a_truth_is_another_product_in_any_number_of_clips(count: int, family: int) -> None:
    held_out = shots(NanoWorldSpec(num_eval=count, look_alikes=family))[-count:]
    assert Counter(s.truth for s in held_out) == Counter(s.product for s in held_out)
    assert all(s.truth != s.product for s in held_out)
    alike = sum(s.truth is not None and s.truth.look_alikes == s.product.look_alikes for s in held_out)
    assert alike == max(0, 2 * min(family, count) - count)  # as many as must be, where one family is more than half


def test_too_many_look_alikes_are_refused() -> None:
    with pytest.raises(ValueError, match="Set world.look_alikes"):
        shots(NanoWorldSpec(num_eval=400, look_alikes=400))


@pytest.mark.parametrize("size", [(64, 64), (224, 128), (48, 96), (50, 34)])
def test_outside_the_mask_there_is_no_trace_of_the_product(size: tuple[int, int]) -> None:
    spec = NanoWorldSpec(num_clips=12, width=size[0], height=size[1], num_frames=3)
    for index in range(12, 18):
        shot = shots(spec)[index]
        clip, other = render_clip(spec, index), render_clip(spec, index, shot.truth)
        assert clip.product == shot.product != other.product == shot.truth
        outside = ~(clip.mask_THW | other.mask_THW)
        same = (clip.frames_TCHW == other.frames_TCHW).all(1)
        assert same[outside].all() and outside.float().mean() > 0.4
        only = clip.mask_THW & ~other.mask_THW
        assert not only.any() or (~same[only]).float().mean() > 0.7  # inside, the product is seen


@pytest.mark.parametrize("size", [(64, 64), (224, 128), (48, 96)])
def test_the_product_fills_a_fair_share_and_stays_in_view(size: tuple[int, int]) -> None:
    spec = NanoWorldSpec(num_clips=16, width=size[0], height=size[1])
    short = min(size) ** 2 / (size[0] * size[1])  # share of the square that the product is measured by
    for index in range(16):
        area = render_clip(spec, index).mask_THW.float().mean((1, 2)) / short
        assert area.min() > 0.04 and area.max() < 0.6, (index, area)


def test_captions_hold_the_words() -> None:
    for index in range(8):
        clip = render_clip(SPEC, index)
        assert clip.product.words in clip.caption and clip.caption[0] == "A" and clip.caption[-1] == "."
        assert clip.caption.startswith("An ") == (clip.product.words[0] in "aeiou")


def test_fingerprint_needs_no_rendering_and_follows_the_spec() -> None:
    again = SPEC.model_copy()
    assert world_fingerprint(SPEC) == world_fingerprint(again) != world_fingerprint(SPEC.model_copy(update={"seed": 1}))


def test_references_show_the_product_on_plain_ground() -> None:
    product = shots(SPEC)[0].product
    first, second = (render_reference(SPEC, product, view) for view in (0, 1))
    assert first.shape == (3, 64, 64) and not torch.equal(first, second)
    assert int(first[:, :3, :3].amax() - first[:, :3, :3].amin()) < 12  # plain but for the darker corners
    wide = SPEC.model_copy(update={"width": 224, "height": 128})
    assert render_reference(wide, product, 0).shape == (3, 128, 128)


def test_the_written_world_passes_its_own_door(written: Path) -> None:
    scan = read_manifest(written, str(written), ClipSpec(), lambda uri: Path(uri))
    assert len(scan.lines) == 8 and not scan.refusals
    for i, line in enumerate(scan.lines):
        shot = shots(SPEC)[i]
        row = inspect(line, ClipSpec(), VideoSpec(width=64, height=64, num_frames=5))[0]
        assert not isinstance(row, Refusal), row
        clip = render_clip(SPEC, i)
        assert torch.equal(torch.stack([png_mask(m) for m in row["mask"]]), clip.mask_THW)
        assert (decode(row["video"]).float() - clip.frames_TCHW.float()).pow(2).mean() < 10
        assert json.loads(row["metadata"])["product_id"] == row["product_id"] == clip.product.product_id
        assert row["product_words"] == clip.product.words and row["look_alikes"] == clip.product.look_alikes and row["split"] == shot.split
        assert torch.equal(png_frame(row["references"][1]), render_reference(SPEC, clip.product, 1)) and len(row["references"]) == 2
        assert (shot.split == "eval") == (row["truth_video"] is not None)
        if shot.truth:
            truth = render_clip(SPEC, i, shot.truth)
            assert row["truth_product_id"] == shot.truth.product_id and row["truth_mask"] == [png_bytes(m) for m in truth.mask_THW]
            assert (decode(row["truth_video"]).float() - truth.frames_TCHW.float()).pow(2).mean() < 10


def test_more_references_and_wide_frames(tmp_path: Path) -> None:
    spec = NanoWorldSpec(num_clips=1, num_eval=2, references=4, width=112, height=64, num_frames=9, fps=16)
    path = write_world(spec, tmp_path)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [len(line["reference_image"]) for line in lines] == [4] * 3 and len(list((tmp_path / "references").iterdir())) == 12
    assert decode(tmp_path / lines[0]["video_path"]).shape == (9, 3, 64, 112)


def test_a_world_that_could_not_be_written_leaves_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "references").write_text("a file where the folder has to be")
    with pytest.raises(FileExistsError):
        write_world(NanoWorldSpec(num_clips=1, num_eval=2), tmp_path)
    assert not (tmp_path / "manifest.jsonl").exists()
