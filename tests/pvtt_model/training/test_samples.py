"""Samples out of the shards, and their batch."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from pvtt_model.data.shards import SCHEMAS, read_rows, write_shard
from pvtt_model.training.samples import Place, Sample, collate, pad_rows, read_sample, stack_references


def sample(text: int, patches: int) -> Sample:
    return Sample(
        torch.full((16, 1, 2, 2), float(text)),
        torch.arange(3.0).view(3, 1, 1, 1, 1).repeat(1, 96, 1, 2, 2),
        torch.full((text, 4), 1.0),
        torch.full((patches, 3), 2.0) * torch.tensor([1.0, 10.0]).view(2, 1, 1),
        torch.full((text - 1, 4), 3.0),
    )


def test_collate_pads_with_zeros_and_marks_what_is_real():
    batch = collate([sample(2, 1), sample(3, 4)], 5, torch.zeros(1, 4), [True, True])
    assert batch.text_BLD.shape == (2, 5, 4) and batch.reference_BPC.shape == (2, 4, 3)
    assert batch.text_BLD[..., 0].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert batch.reference_BPC[..., 0].tolist() == [[2, 0, 0, 0], [2, 2, 2, 2]]
    assert batch.reference_keep_BP.tolist() == [[True, False, False, False], [True] * 4]
    assert batch.x0_BCFHW[:, 0, 0, 0, 0].tolist() == [2, 3]
    assert batch.words_BLD[..., 0].tolist() == [[3, 0], [3, 3]]
    assert collate([sample(1, 1)] * 2, 5, torch.zeros(1, 4), [True, True]).words_BLD.shape == (2, 0, 4)


def test_collate_takes_the_variant_asked_for_modulo_those_there():
    samples = [sample(1, 1)] * 4
    batch = collate(samples, 2, torch.zeros(1, 4), [True] * 4, [0, 1, 2, 7])
    assert samples[0].num_variants == 3 and batch.control_BMFHW.shape == (4, 96, 1, 2, 2)
    assert batch.control_BMFHW[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 1]
    assert (collate(samples, 2, torch.zeros(1, 4), [True] * 4).control_BMFHW == 0).all()


def test_collate_takes_the_pictures_variant_asked_for():
    samples = [sample(1, 2)] * 3
    batch = collate(samples, 2, torch.zeros(1, 4), [True] * 3, None, [0, 1, 3])
    assert batch.reference_BPC[:, 0, 0].tolist() == [2, 20, 20]
    assert (collate(samples, 2, torch.zeros(1, 4), [True] * 3).reference_BPC == 2).all()


def test_a_dropped_prompt_becomes_the_empty_one():
    batch = collate([sample(2, 1), sample(3, 1)], 4, torch.full((1, 4), 9.0), [False, True])
    assert batch.text_BLD[..., 0].tolist() == [[9, 0, 0, 0], [1, 1, 1, 0]]


def test_the_mark_keeps_its_type():
    batch = collate([sample(1, 1)], 2, torch.zeros(1, 4), [True]).to(torch.device("cpu"), torch.bfloat16)
    assert [t.dtype for t in batch] == [torch.bfloat16] * 4 + [torch.bool] + [torch.bfloat16] * 3


def test_too_many_tokens_are_refused():
    assert pad_rows(torch.ones(3, 2), 3).shape == (3, 2)
    with pytest.raises(ValueError, match="3 text tokens, the recipe allows 2. Re-run conditions"):
        pad_rows(torch.ones(3, 2), 2)


def test_equal_references_need_no_padding():
    stacked, keep = stack_references([torch.ones(2, 3)] * 2)
    assert stacked.shape == (2, 2, 3) and keep.all()


@pytest.fixture
def shards(tmp_path):
    z = {k: torch.full((16, 1, 2, 2), v) for k, v in (("latents_CFHW", 1.0), ("inactive_CFHW", 2.0), ("reactive_CFHW", 3.0))}
    z["maskbits_KFHW"] = torch.full((8, 1, 2, 2), 255, dtype=torch.uint8)
    z |= {"inactive_1_CFHW": z["inactive_CFHW"] + 10, "reactive_1_CFHW": z["reactive_CFHW"] + 10, "maskbits_1_KFHW": z["maskbits_KFHW"] * 0}
    c = {"text_LD": torch.ones(2, 4).bfloat16(), "reference_NPC": torch.arange(12.0).view(2, 3, 2)}
    c["reference_1_NPC"] = c["reference_NPC"] + 100

    def write(latents_keys: str, conditions_keys: str, videos: int = 1) -> tuple:
        for video in range(1, videos):
            name = f"v{video}"
            z[f"latents_{name}_CFHW"] = z["latents_CFHW"] + video
            for i in ("", "_1"):
                z[f"maskbits_{name}{i}_KFHW"] = z[f"maskbits{i}_KFHW"].clone()
                z.update({f"{half}_{name}{i}_CFHW": z[f"{half}{i}_CFHW"] + 100 * video for half in ("inactive", "reactive")})
        common = {"usable": True, "reason": None}
        write_shard(tmp_path / f"l{videos}", [common | {"clip_key": k, "tensors": save(z)} for k in latents_keys], SCHEMAS["latents"])
        write_shard(tmp_path / "c", [common | {"clip_key": k, "tensors": save(c)} for k in conditions_keys], SCHEMAS["conditions"])
        return tmp_path / f"l{videos}", tmp_path / "c"

    return write


def test_a_sample_is_read_from_its_row(shards):
    got = read_sample(Place("b", *shards("ab", "ab"), 1))
    assert got.control_VMFHW.shape == (2, 96, 1, 2, 2) and got.control_VMFHW.dtype == torch.float32
    assert got.control_MFHW()[[0, 16, 32], 0, 0, 0].tolist() == [2, 3, 1], "inactive, reactive, mask, as VACE stacks them"
    assert got.control_MFHW(3)[[0, 16, 32], 0, 0, 0].tolist() == [12, 13, 0]
    assert (got.x0_CFHW == 1).all() and got.text_LD.dtype == torch.float32
    wanted = torch.arange(12.0).view(6, 2)
    assert torch.equal(got.reference_VPC, torch.stack([wanted, wanted + 100])), "pictures of a clip stand behind one another"


def test_what_training_does_not_read_yet_changes_no_sample(shards, tmp_path):
    """A row with CLIP's tokens and VACE's references is read as one of before, without them."""
    plain = read_sample(Place("a", *shards("a", "a"), 0))
    latents, conditions = ({**load(read_rows(tmp_path / name)[0]["tensors"])} for name in ("l1", "c"))
    latents["references_NCFHW"] = torch.ones(2, 16, 1, 2, 2)
    conditions |= {"clip_NPC": torch.ones(2, 5, 3), "clip_ND": torch.ones(2, 4), "clip_1_NPC": torch.ones(2, 5, 3), "clip_1_ND": torch.ones(2, 4)}
    for name, tensors in (("latents", latents), ("conditions", conditions)):
        write_shard(tmp_path / name, [{"usable": True, "reason": None, "clip_key": "a", "tensors": save(tensors)}], SCHEMAS[name])
    more = read_sample(Place("a", tmp_path / "latents", tmp_path / "conditions", 0))
    assert all(torch.equal(a, b) for a, b in zip(plain, more, strict=True))


@pytest.mark.parametrize(("latents", "conditions"), [("ab", "ba"), ("ba", "ab"), ("ba", "ba")])
def test_shards_of_different_data_sets_are_refused(shards, latents, conditions):
    with pytest.raises(ValueError, match="row 0 holds clips . and ., not a. The shards are of different data sets; re-run curation"):
        read_sample(Place("a", *shards(latents, conditions), 0))


def test_a_sample_has_the_videos_variants_with_their_contexts(shards):
    plain = read_sample(Place("b", *shards("ab", "ab"), 1))
    assert plain.num_videos == 1 and plain.of_video(0) is plain and not plain.more_x0_NCFHW.numel()
    got = read_sample(Place("b", *shards("ab", "ab", videos=3), 1))
    assert got.num_videos == 3 and got.more_x0_NCFHW.shape == (2, 16, 1, 2, 2) and got.more_control_NVMFHW.shape == (2, 2, 96, 1, 2, 2)
    assert torch.equal(got.x0_CFHW, plain.x0_CFHW) and torch.equal(got.control_VMFHW, plain.control_VMFHW)
    second = got.of_video(2)
    assert (second.x0_CFHW == 3).all() and second.control_MFHW(1)[[0, 16, 32], 0, 0, 0].tolist() == [212, 213, 0]
    batch = collate([got, second], 2, torch.zeros(1, 4), [True] * 2)
    assert batch.x0_BCFHW[:, 0, 0, 0, 0].tolist() == [1, 3] and batch.control_BMFHW[:, 0, 0, 0, 0].tolist() == [2, 202]
