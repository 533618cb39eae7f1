"""Merging to the bit; several adapters against models whose weights were put together by hand."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.low_rank.active import weighted_sum
from pvtt_model.low_rank.composer import Composer
from pvtt_model.low_rank.load import load_low_rank
from pvtt_model.low_rank.merge import merge_low_rank, merged, unmerge_low_rank
from pvtt_model.low_rank.switch import Switch
from pvtt_model.specs import LoraSpec

PLAIN = LoraSpec(rank=3, alpha=6, targets=("attn1", "attn2", "ffn"))
DORA = LoraSpec(rank=3, alpha=6, targets=("attn1", "attn2", "ffn"), kind="dora")


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items() if "lora_" not in k}


def put_together(model, *adapters):
    """The model with each weight replaced: W + the sum of weight times the adapter's change."""
    for module in {m for layers, _ in adapters for m in layers}:
        weight = model.get_submodule(module).weight
        weight.copy_(weight + sum(w * (layers[module].updated(weight) - weight) for layers, w in adapters if module in layers))
    return model


@pytest.fixture
def two(tiny, drawn):
    """A model with the adapters 'mug' (all layers) and 'lamp' (attn1 alone), and their tensors."""
    model = tiny()
    mug, lamp = drawn(model, PLAIN, 1), drawn(model, LoraSpec(rank=2, alpha=2, targets=("attn1",)), 2)
    load_low_rank(model, mug, "mug")
    load_low_rank(model, lamp, "lamp")
    return model, mug, lamp


@pytest.mark.parametrize("spec", [PLAIN, DORA], ids=["lora", "dora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_answers_alike_and_unmerged_is_the_base_to_the_bit(tiny, ask, drawn, spec, dtype):
    model = tiny()
    load_low_rank(model, drawn(model, spec))
    before = ask(model)
    model.to(dtype)
    state = bits(model)
    originals = merge_low_rank(model)
    assert not any(torch.equal(model.get_submodule(m).base_layer.weight, w) for m, w in originals.items())
    if dtype == torch.float32:
        torch.testing.assert_close(ask(model), before, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="28 layers are merged already|20 layers are merged already"):
        merge_low_rank(model)
    unmerge_low_rank(model, originals)
    after = bits(model)
    assert all(torch.equal(after[k], state[k]) for k in state) and after.keys() == state.keys()
    if dtype == torch.float32:
        assert torch.equal(ask(model), before)


def test_merging_inside_a_context_and_with_nothing_to_merge(tiny, ask, two):
    model, mug, lamp = two
    with pytest.raises(ValueError, match="no adapter to merge"):
        merge_low_rank(tiny())
    state = bits(model)
    with pytest.raises(RuntimeError, match="stop"), merged(model, ["mug", "lamp"]):
        torch.testing.assert_close(ask(model), ask(put_together(tiny(), (mug, 1.0), (lamp, 1.0))), rtol=0, atol=1e-5)
        raise RuntimeError("stop")
    assert all(torch.equal(v, state[k]) for k, v in bits(model).items())


def test_a_failed_merge_leaves_the_base_as_it_was(two):
    model, _, _ = two
    state = bits(model)
    model.blocks[1].attn2.to_v.lora_A["mug"].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaNs detected"):
        merge_low_rank(model, ["mug"])
    assert all(torch.equal(v, state[k]) for k, v in bits(model).items()) and not model.blocks[0].attn1.to_q.merged


def test_the_weighted_sum_is_the_sum_of_the_updates(tiny, ask, two):
    model, mug, lamp = two
    before = ask(model)  # the last loaded acts alone
    torch.testing.assert_close(before, ask(put_together(tiny(), (lamp, 1.0))), rtol=0, atol=1e-5)
    with weighted_sum(model, {"mug": 0.7, "lamp": -0.4}):
        torch.testing.assert_close(ask(model), ask(put_together(tiny(), (mug, 0.7), (lamp, -0.4))), rtol=0, atol=1e-5)
    assert torch.equal(ask(model), before)
    with pytest.raises(ValueError, match=r"no adapters \['cup'\]; the transformer has \['lamp', 'mug'\]"), weighted_sum(model, {"cup": 1.0}):
        pass


def test_dora_has_no_sum(tiny, drawn):
    model = tiny()
    load_low_rank(model, drawn(model, DORA), "dora")
    with pytest.raises(ValueError, match=r"\['dora'\] are DoRA.*use Switch"), weighted_sum(model, {"dora": 1.0}):
        pass


def test_switch_gives_each_step_to_one_adapter(tiny, ask, drawn, two):
    model, mug, lamp = two
    before, grads = ask(model), {n: p.requires_grad for n, p in model.named_parameters()}
    alone = {name: ask(put_together(tiny(), (layers, 1.0))) for name, layers in (("mug", mug), ("lamp", lamp))}
    with Switch(model, ("mug", "lamp"), every=2) as switch:
        torch.testing.assert_close(ask(model), alone["mug"], rtol=0, atol=1e-5)
        for step, name in enumerate(["mug", "mug", "lamp", "lamp", "mug", "mug", "lamp"]):
            switch.on_step(step)
            assert switch.name_at(step) == name
            torch.testing.assert_close(ask(model), alone[name], rtol=0, atol=1e-5)
        switch.on_step(0)
        for name in ("mug", "lamp", "lamp", "mug"):
            switch.next_step()
            torch.testing.assert_close(ask(model), alone[name], rtol=0, atol=1e-5)
        assert switch.on_step_end(None, 1, None, {"latents": 1}) == {"latents": 1}
        torch.testing.assert_close(ask(model), alone["lamp"], rtol=0, atol=1e-5)
    assert torch.equal(ask(model), before) and {n: p.requires_grad for n, p in model.named_parameters()} == grads
    with pytest.raises(ValueError, match="every=0"):
        Switch(model, ("mug",), every=0)


def test_a_switch_in_training_gives_the_gradients_back(tiny, drawn):
    from pvtt_model.low_rank.attach import attach_low_rank

    model = tiny()
    load_low_rank(model, drawn(model, PLAIN), "mug")
    attach_low_rank(model, LoraSpec(rank=2, alpha=2))
    grads = {n for n, p in model.named_parameters() if p.requires_grad}
    assert grads and all(".default." in n for n in grads)
    with Switch(model, ("mug", "default")):
        assert not any(p.requires_grad for p in model.parameters())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == grads


HALF = torch.zeros(2, 4, 4, dtype=torch.bool)
HALF[:, :, :2] = True  # the left column of tokens: 4 of 8


@pytest.mark.parametrize("spec", [PLAIN, DORA], ids=["lora", "dora"])
def test_composer_everywhere_is_the_adapter_and_nowhere_is_the_base(tiny, ask, drawn, spec):
    model = tiny()
    load_low_rank(model, drawn(model, spec), "mug")
    alone, base = ask(model), ask(tiny())
    with Composer(model, {"mug": torch.ones(2, 4, 4)}):
        torch.testing.assert_close(ask(model), alone, rtol=0, atol=1e-6)
    with Composer(model, {"mug": torch.zeros(2, 4, 4)}):
        torch.testing.assert_close(ask(model), base, rtol=0, atol=1e-6)
    assert torch.equal(ask(model), alone)


@pytest.mark.parametrize("spec", [PLAIN, DORA], ids=["lora", "dora"])
def test_composer_by_hand(tiny, drawn, spec):
    """One block, layer by layer: region by region what models with that region's weights give."""
    model, mugs, lamps = tiny(), None, None
    mugs, lamps = drawn(model, spec, 1), drawn(model, spec, 2)
    load_low_rank(model, mugs, "mug")
    load_low_rank(model, lamps, "lamp")
    lamp_region = torch.zeros(2, 4, 4, dtype=torch.bool)
    lamp_region[0, :2, 2:] = True  # one token; three more are nobody's
    left = torch.tensor([True, False] * 4)
    lamp = torch.zeros(8, dtype=torch.bool)
    lamp[1] = True
    regions = torch.where(left, 1, torch.where(lamp, 2, 0))
    models = [tiny(), put_together(tiny(), (mugs, 1.0)), put_together(tiny(), (lamps, 1.0))]
    g = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 8, 24, generator=g), torch.randn(1, 5, 24, generator=g)
    rotary = model.rope(torch.zeros(1, 4, 2, 4, 4))

    def chosen(answers):
        return torch.stack(answers)[regions, :, torch.arange(8)].transpose(0, 1)

    with Composer(model, {"mug": HALF, "lamp": lamp_region}):
        block = model.blocks[0]
        for layer in ("to_q", "to_out.0"):
            answers = [m.blocks[0].attn1.get_submodule(layer)(x) for m in models]
            torch.testing.assert_close(block.attn1.get_submodule(layer)(x), chosen(answers), rtol=0, atol=1e-5)
        torch.testing.assert_close(block.ffn(x), chosen([m.blocks[0].ffn(x) for m in models]), rtol=0, atol=1e-5)
        answers = [m.blocks[0].attn2(x, text, None, None) for m in models]
        torch.testing.assert_close(block.attn2(x, text, None, None), chosen(answers), rtol=0, atol=1e-5)
        base = [m.blocks[0].attn1(x, None, None, rotary) for m in models]
        assert all((block.attn1(x, None, None, rotary) - b).abs().max() > 1e-3 for b in base), "regions hear one another through self-attention"
    assert not any(m._forward_hooks for m in model.modules())


def test_composer_refuses_what_it_cannot_do(ask, two):
    model, _, _ = two
    with pytest.raises(ValueError, match=r"\['mug', 'lamp'\] overlap"):
        Composer(model, {"mug": HALF, "lamp": torch.ones(2, 4, 4)})
    with pytest.raises(ValueError, match="have shapes"):
        Composer(model, {"mug": HALF, "lamp": torch.zeros(1, 4, 4)})
    with pytest.raises(ValueError, match="whole patches"):
        Composer(model, {"mug": torch.ones(2, 3, 4)})
    with pytest.raises(ValueError, match="the model has 8 tokens here, the region of 'mug' 4"), Composer(model, {"mug": torch.ones(1, 4, 4)}):
        ask(model)
