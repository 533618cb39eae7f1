"""The fused LoRA: peft's answers and gradients in one node, and peft itself where a layer is not plain LoRA."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from pvtt_model.low_rank.attach import attach_low_rank
from pvtt_model.low_rank.fused import FusedLinear, fuse_low_rank, product_dtype, unfuse_low_rank
from pvtt_model.low_rank.load import adapted_layers, load_low_rank
from pvtt_model.low_rank.merge import merged
from pvtt_model.specs import LoraSpec

SPEC = LoraSpec(rank=4, alpha=6, dropout=0.0, targets=("attn1", "attn2", "ffn"), rank_pattern=(("attn2", 2),))


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def learning(tiny, drawn):
    """learning(spec=SPEC): a tiny Wan in train mode whose LoRA is drawn and gets gradients."""

    def make(spec=SPEC):
        model = tiny()
        load_low_rank(model, drawn(model, spec))
        for name, p in model.named_parameters():
            p.requires_grad_(".lora_" in name)
        for layer in adapted_layers(model).values():
            layer.lora_dropout["default"] = torch.nn.Dropout(spec.dropout) if spec.dropout else torch.nn.Identity()
        return model.train()

    return make


def answer_and_gradients(model, ask):
    torch.manual_seed(5)  # of the dropout
    answer = ask(model)
    answer.float().square().sum().backward()
    return answer.detach(), {name: p.grad.clone() for name, p in trainable(model).items()}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_peft_s_answer_and_gradients(learning, ask, dropout):
    spec = SPEC.model_copy(update={"dropout": dropout})
    wanted, gradients = answer_and_gradients(learning(spec), ask)
    model = learning(spec)
    names, state = list(trainable(model)), model.state_dict()
    assert fuse_low_rank(model) == {}
    assert list(trainable(model)) == names and set(model.state_dict()) == set(state)
    got, fused = answer_and_gradients(model, ask)
    assert sum(isinstance(layer, FusedLinear) for layer in adapted_layers(model).values()) == 2 * 10
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    for name, wanted_grad in gradients.items():
        assert (fused[name] - wanted_grad).abs().max() <= 1e-5 * wanted_grad.abs().max(), name
    assert all(p.grad is None for name, p in model.named_parameters() if ".lora_" not in name)
    unfuse_low_rank(model)
    model.zero_grad()
    assert torch.equal(answer_and_gradients(model, ask)[0], wanted), "peft's own class again, with its bits"


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_in_bfloat16_as_near_the_truth_as_peft(low):
    """One layer's output and gradients, against float64; peft rounds at every node, the fused at the end of each product at most."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    config = LoraConfig(r=8, target_modules=["0"], lora_alpha=8, init_lora_weights=False)
    holder = inject_adapter_in_model(config, torch.nn.Sequential(torch.nn.Linear(32, 48)))
    layer, x, g = holder[0], torch.randn(64, 32).bfloat16(), torch.randn(64, 48).bfloat16()
    layer.base_layer.to(torch.bfloat16)
    layer.lora_A.to(low)
    layer.lora_B.to(low)
    own = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]

    def found(forward, x, g):
        x = x.clone().requires_grad_(True)
        out = forward(x)
        return [t.detach().double() for t in (out, *torch.autograd.grad(out, (x, *own), g))]

    peft, _ = found(layer, x, g), fuse_low_rank(holder)
    fused = found(layer, x, g)
    truth = found(holder.double()[0], x.double(), g.double())
    for ours, theirs, exact in zip(fused, peft, truth, strict=True):
        error, theirs_error = ((t - exact).norm() / exact.norm() for t in (ours, theirs))
        assert error <= 1.05 * theirs_error + 1e-4


def test_keeps_the_input_and_what_a_made_of_it():
    from peft import LoraConfig, inject_adapter_in_model

    holder = inject_adapter_in_model(LoraConfig(r=3, target_modules=["0"]), torch.nn.Sequential(torch.nn.Linear(8, 16)))
    fuse_low_rank(holder)
    kept, weights = [], {p.data_ptr() for p in holder.parameters()}
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        holder(torch.randn(5, 8))
    assert sorted(t.numel() for t in kept if t.data_ptr() not in weights) == [5 * 3, 5 * 8]


def test_what_is_no_plain_lora_stays_with_peft(tiny, drawn, ask):
    model = tiny()
    attach_low_rank(model, SPEC.model_copy(update={"kind": "dora"}))
    with torch.enable_grad():
        wanted = ask(model)
        left = fuse_low_rank(model)
        assert len(left) == 20 and set(left.values()) == {"a variant: DoraLinearVariant"}
        assert torch.equal(ask(model), wanted)


def test_several_merged_or_a_trained_base_stay_with_peft(learning, tiny, drawn, ask):
    model = learning()
    fuse_low_rank(model)
    plain = ask(model)
    with merged(model):
        assert torch.allclose(ask(model), plain, atol=1e-5), "once, not twice"
    layers = adapted_layers(model)
    load_low_rank(model, drawn(tiny(), SPEC, seed=1), "second")
    for layer in layers.values():
        layer.set_adapter(["default", "second"])
    assert set(fuse_low_rank(model).values()) == {"2 adapters are active"}
    both = ask(model)
    unfuse_low_rank(model)
    assert torch.equal(ask(model), both)
    for layer in layers.values():
        layer.set_adapter("default")
    next(iter(layers.values())).base_layer.weight.requires_grad_(True)
    assert list(fuse_low_rank(model).values()) == ["the base is trained"]


def test_products_of_a_float32_are_its_own():
    assert product_dtype(torch.device("cpu"), torch.float32) == torch.float32
    assert product_dtype(torch.device("cuda"), torch.bfloat16) == torch.bfloat16
    lacking = not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert product_dtype(torch.device("cpu"), torch.bfloat16) == (torch.float32 if lacking else torch.bfloat16)
