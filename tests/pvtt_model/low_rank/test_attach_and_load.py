"""What is adapted, with which ranks; and that a file which does not fit is refused by name."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from pvtt_model.low_rank.attach import attach_low_rank
from pvtt_model.low_rank.layers import LowRankLayer
from pvtt_model.low_rank.load import adapted_layers, load_low_rank, take_low_rank
from pvtt_model.specs import LoraSpec

SPECS = {
    "plain": LoraSpec(rank=4, alpha=8, dropout=0.0),
    "dora": LoraSpec(rank=4, alpha=4, dropout=0.0, kind="dora", targets=("attn1", "ffn")),
    "keys and values of cross attention, in one block": LoraSpec(rank=2, alpha=2, targets=("cross_attn.k", "cross_attn.v"), blocks=(1,)),
    "ranks by module": LoraSpec(rank=4, alpha=4, rank_pattern={"temporal_self_attn": 2, "attn2.to_k": 3, "attn2": 5}, alpha_pattern={"attn2": 7}),
}


@pytest.mark.parametrize("name", list(SPECS))
def test_peft_adapts_what_the_spec_says_and_the_plan_counts_it(tiny, ask, name):
    spec, model = SPECS[name], tiny()
    before, sizes = ask(model), {name: (m.in_features, m.out_features) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    attach_low_rank(model, spec)
    layers = adapted_layers(model)
    assert set(layers) == {f"blocks.{b}.{layer}" for b in (spec.blocks or range(2)) for layer in spec.layers()}
    for module, layer in layers.items():
        rank, alpha = spec.rank_of(spec.layer_of(module)), spec.alpha_of(spec.layer_of(module))
        assert (layer.r["default"], layer.lora_A["default"].weight.shape[0], layer.scaling["default"]) == (rank, rank, alpha / rank)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    counted = [spec.rank_of(spec.layer_of(name)) * sum(sizes[name]) + (sizes[name][1] if spec.kind == "dora" else 0) for name in layers]
    assert sum(p.numel() for p in trained.values()) == sum(counted)
    assert all(".lora_" in n for n in trained)
    torch.testing.assert_close(ask(model), before, rtol=0, atol=1e-6 if spec.kind == "dora" else 0)
    ask(model).pow(2).mean().backward()
    assert [n for n, p in model.named_parameters() if (p.grad is not None) != p.requires_grad] == []


def test_a_layers_own_rank_goes_before_its_modules():
    spec = SPECS["ranks by module"]
    assert [spec.rank_of(x) for x in ("attn1.to_q", "attn2.to_k", "attn2.to_v")] == [2, 3, 5]
    assert [spec.alpha_of(x) for x in ("attn1.to_q", "attn2.to_k", "attn2.to_v")] == [4, 7, 7]


def test_a_block_that_is_not_there_is_refused(tiny):
    with pytest.raises(ValueError, match=r"blocks.2.attn1.to_q.*transformer of 2 blocks"):
        attach_low_rank(tiny(), LoraSpec(blocks=(2,)))


@pytest.mark.parametrize("name", list(SPECS))
def test_what_is_taken_is_what_was_loaded(tiny, ask, drawn, name):
    spec, model = SPECS[name], tiny()
    layers, state, rng = drawn(model, spec), {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    base = ask(model)
    load_low_rank(model, layers, "mug", expected=spec)
    taken = take_low_rank(model, "mug")
    assert taken.keys() == layers.keys() and torch.equal(rng, torch.random.get_rng_state())
    for module, tensors in layers.items():
        same = zip(tensors, taken[module], strict=True)
        assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in same), module
    assert not any(p.requires_grad for p in model.parameters())
    merged = tiny()  # the definition, by hand: each weight replaced by its update
    for module, tensors in layers.items():
        weight = merged.get_submodule(module).weight
        weight.copy_(tensors.updated(weight))
    torch.testing.assert_close(ask(model), ask(merged), rtol=0, atol=1e-5)
    assert (ask(model) - base).abs().max() > 1e-2
    assert all(torch.equal(v, state[k]) for k, v in merged.state_dict().items() if k.removesuffix(".weight") not in layers)


def test_dora_by_hand():
    weight, down, up = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0], [0.0]])
    layer = LowRankLayer(down, up, alpha=1.0, magnitude_O=torch.tensor([10.0, 2.0]))  # W + B A = [[3, 4], [0, 1]], lengths 5 and 1
    assert torch.equal(layer.updated(weight), torch.tensor([[6.0, 8.0], [0.0, 2.0]]))
    assert torch.equal(LowRankLayer(down, up, alpha=0.5).updated(weight), torch.tensor([[3.0, 2.0], [0.0, 1.0]]))


def test_a_file_of_another_model_is_refused_by_name_and_changes_nothing(tiny, drawn):
    model, spec = tiny(), LoraSpec(rank=4, alpha=4)
    layers = drawn(model, spec)
    foreign = {f"transformer_blocks.{i}.attn.to_q": t for i, t in enumerate(layers.values())}
    with pytest.raises(ValueError, match=r"0 of 16 LoRA layers match; not in this transformer: transformer_blocks.0.attn.to_q.* and 10 more"):
        load_low_rank(model, foreign)
    wide = layers | {"blocks.0.attn1.to_q": LowRankLayer(torch.zeros(4, 32), torch.zeros(24, 4), 4.0)}
    with pytest.raises(ValueError, match=r"15 of 16 .* of another shape: blocks.0.attn1.to_q: \(24, 32\) for \(24, 24\)"):
        load_low_rank(model, wide)
    fewer = {m: t for m, t in layers.items() if m != "blocks.1.attn2.to_v"}
    with pytest.raises(ValueError, match=r"15 of 16 .* expected but not in the file: blocks.1.attn2.to_v"):
        load_low_rank(model, fewer, expected=spec)
    with pytest.raises(ValueError, match=r"of another rank: blocks.0.attn1.to_k: rank 4 for 8"):
        load_low_rank(model, layers, expected=LoraSpec(rank=8, alpha=8))
    with pytest.raises(ValueError, match=r"in the file but not expected: blocks.0.attn2"):
        load_low_rank(model, layers, expected=LoraSpec(rank=4, alpha=4, targets=("attn1",)))
    with pytest.raises(ValueError, match="0 of 0 LoRA layers match; the file has none"):
        load_low_rank(model, {})
    assert adapted_layers(model) == {} and all(isinstance(model.get_submodule(m), nn.Linear) for m in layers)
    load_low_rank(model, layers, "mug")
    with pytest.raises(ValueError, match="adapter 'mug' already"):
        load_low_rank(model, layers, "mug")


def test_four_bits_without_bitsandbytes_is_refused_with_the_cure(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"needs bitsandbytes.*pvtt\[qlora\]"):
        attach_low_rank(tiny(), LoraSpec(quantize="nf4"))
