"""What is trained, under which names, and how it is carried on."""

from __future__ import annotations

import re

import pytest
import torch

from pvtt_model.training.teacher import load_trainable
from pvtt_model.training.trained_tensors import ADAPTER, LORA, join_trainable, split_trainable

LAYERS = {"nano-s": 4, "nano-m": 6}


def snapshot(teacher) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in teacher.trainable().items()}


def lora_modules(teacher) -> set[str]:
    return {n.removeprefix("transformer.") for n, m in teacher.named_modules() if hasattr(m, "lora_A")}


@pytest.mark.parametrize("name", list(LAYERS))
def test_lora_lands_on_the_attentions_of_the_main_blocks(make_teacher, name):
    modules = lora_modules(make_teacher(name))
    wanted = {f"blocks.{i}.{a}.{p}" for i in range(LAYERS[name]) for a in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v", "to_out.0")}
    assert modules == wanted and len(modules) == 8 * LAYERS[name]


@pytest.mark.parametrize(("targets", "a_block"), [(("attn1",), 4), (("attn2",), 4), (("ffn",), 2), (("attn1", "attn2", "ffn"), 10)])
def test_lora_targets(make_teacher, targets, a_block):
    modules = lora_modules(make_teacher(targets=targets))
    assert len(modules) == a_block * 4
    assert {m.split(".")[2] for m in modules} == set(targets)
    assert not any(m.startswith("vace_blocks") for m in modules)


def test_only_adapter_and_lora_are_trained(make_teacher):
    teacher = make_teacher(every=2)
    kinds = re.compile(
        r"resampler\.|transformer\.blocks\.\d+\.attn[12]\.(to_[qkv]|to_out\.0)\.lora_[AB]\.default\.weight$"
        r"|transformer\.blocks\.[02]\.attn2\.processor\.to_[kv]_ref\.weight$"
    )
    names = list(teacher.trainable())
    assert [n for n in names if not kinds.match(n)] == []
    assert sum("_ref" in n for n in names) == 4 and sum("lora_" in n for n in names) == 2 * 32
    assert all(not p.requires_grad for n, p in teacher.named_parameters() if "base_layer" in n)


def test_the_same_seed_gives_the_same_start(make_teacher):
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    one, two, other = (snapshot(make_teacher(seed=s)) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state()), "building draws nothing from the caller's generator"
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert not torch.equal(one["resampler.latents"], other["resampler.latents"])


def test_split_and_join(make_teacher):
    trained = snapshot(make_teacher())
    lora, adapter, backbone = split = split_trainable(trained)
    assert len(lora) + len(adapter) == len(trained) and not backbone and list(split.files()) == [LORA, ADAPTER]
    assert all(re.fullmatch(r"transformer\.blocks\..*\.lora_[AB]\.weight", n) for n in lora), "diffusers' names: no 'default'"
    assert all(n.startswith(("resampler.", "blocks.")) for n in adapter)
    joined = join_trainable(lora, adapter)
    assert joined.keys() == trained.keys() and all(joined[n] is trained[n] for n in trained)


def test_doras_magnitudes_are_trained_and_named_as_diffusers_does(make_teacher):
    trained = snapshot(make_teacher(kind="dora"))
    magnitudes = [n for n in trained if n.endswith(".lora_magnitude_vector.default.weight")]
    assert len(magnitudes) == 32
    lora, adapter, _ = split_trainable(trained)
    assert sum(n.endswith(".lora_magnitude_vector") for n in lora) == 32 and not any("default" in n for n in lora)
    assert join_trainable(lora, adapter).keys() == trained.keys()
    report = load_trainable(make_teacher(kind="dora", seed=3), join_trainable(lora, adapter))
    assert set(report["loaded"]) == set(trained)


def test_loading_carries_every_tensor(make_teacher):
    trained = {n: torch.full_like(t, i + 1.0) for i, (n, t) in enumerate(snapshot(make_teacher()).items())}
    teacher = make_teacher(seed=5)
    report = load_trainable(teacher, trained)
    assert (set(report["loaded"]), report["fresh"], report["unused"]) == (set(trained), [], [])
    assert all(torch.equal(t, trained[n]) for n, t in snapshot(teacher).items())


def test_a_checkpoint_that_does_not_fit_is_refused_by_name_and_changes_nothing(make_teacher):
    teacher = make_teacher()
    before = snapshot(teacher)
    trained = {n: t + 1 for n, t in before.items()}
    del trained["resampler.latents"]
    trained["resampler.latent"] = torch.zeros(1)
    trained["resampler.proj_in.bias"] = torch.zeros(5)
    with pytest.raises(ValueError) as error:
        load_trainable(teacher, trained)
    fits = len(before) - 2
    assert f"{fits} of {len(before)} trained tensors match" in str(error.value)
    assert all(name in str(error.value) for name in ("'resampler.latents'", "'resampler.latent'", "'resampler.proj_in.bias'"))
    assert all(torch.equal(t, before[n]) for n, t in snapshot(teacher).items())


def test_another_rank_is_refused(make_teacher):
    with pytest.raises(ValueError, match="use its own recipe"):
        load_trainable(make_teacher(rank=4), snapshot(make_teacher(rank=8)))


def test_between_sizes_exactly_the_resampler_is_carried(make_teacher):
    small, big = make_teacher("nano-s", seed=1), make_teacher("nano-m", seed=2)
    before, start = snapshot(small), snapshot(big)
    report = load_trainable(big, before, partial=True)
    resampler = {n for n in start if n.startswith("resampler.")}
    assert set(report["loaded"]) == resampler
    assert set(report["fresh"]) == set(start) - resampler and set(report["unused"]) == set(before) - resampler
    after = snapshot(big)
    assert all(torch.equal(after[n], before[n] if n in resampler else start[n]) for n in after)


def test_nothing_in_common_is_refused_even_in_part(make_teacher):
    with pytest.raises(ValueError, match="no tensor of the stage before fits this one, not even the resampler"):
        load_trainable(make_teacher(), {"resampler.latents": torch.zeros(1)}, partial=True)
