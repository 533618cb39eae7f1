"""The base in 4 bits: code points, error, bytes; and that it trains the update alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pvtt_model.low_rank.layers import LowRankLayer
from pvtt_model.low_rank.load import load_low_rank, take_low_rank
from pvtt_model.low_rank.merge import merge_low_rank
from pvtt_model.low_rank.nf4 import QUANTISED, nf4_bytes, quantise_base
from pvtt_model.specs import LoraSpec

#: The 16 code points of NF4, arXiv:2305.14314, appendix E.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
    1.0,
]  # fmt: skip

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; make test-qlora runs these with one")


def weight_of(layer) -> torch.Tensor:
    return bitsandbytes.functional.dequantize_4bit(layer.weight, layer.weight.quant_state)


def test_code_points_come_back(tiny):
    """Weights that are code points times one magnitude a block: the codes are kept; the magnitudes are 8-bit, of equal blocks exact."""
    model, linear = tiny(), nn.Linear(64, 16, bias=False)
    values = torch.tensor(NF4)[torch.randint(16, (16, 64), generator=torch.Generator().manual_seed(0))]
    values[:, 0] = 1.0  # each row of 64 is a block; its magnitude is 1
    linear.weight.data = 0.03 * values
    model.blocks[0].ffn.net[2] = linear
    quantise_base(model)
    back = weight_of(model.blocks[0].ffn.net[2])
    torch.testing.assert_close(back, 0.03 * values, rtol=1e-4, atol=0)


def test_the_error_is_bounded_and_the_bytes_are_counted():
    linear = nn.Linear(512, 256)
    original = linear.weight.data.normal_(generator=torch.Generator().manual_seed(0)).clone()
    holder = nn.Module()
    holder.blocks = nn.ModuleList([nn.Module()])
    holder.blocks[0].proj_in = linear
    assert quantise_base(holder) == 1
    packed = holder.blocks[0].proj_in
    blocks = original.view(-1, 64)
    widest = max(b - a for a, b in zip(NF4, NF4[1:], strict=False)) / 2  # half the gap between -1 and its neighbour
    magnitude = blocks.abs().amax(1, keepdim=True)
    spread = magnitude.max() - magnitude.min()  # the 8-bit code of the magnitudes is off by less than a hundredth of their spread
    assert ((weight_of(packed).view(-1, 64) - blocks).abs() <= widest * magnitude + 0.05 * spread).all()
    assert (weight_of(packed) - original).pow(2).mean().sqrt() < 0.1  # of weights of deviation 1
    state = packed.weight.quant_state
    held = packed.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert held == nf4_bytes(512 * 256) and packed.weight.dtype == torch.uint8
    assert math.isclose(nf4_bytes(1_000_000_000) / 1e9, 0.5159, abs_tol=1e-4)


def test_a_forward_is_that_of_the_rounded_weights_and_gradients_reach_only_the_update(make_teacher, teacher_inputs):
    teacher, inputs = make_teacher(quantize="nf4"), teacher_inputs(1)
    base = teacher.transformer
    packed = {n: m for n, m in base.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert all(QUANTISED.fullmatch(n.removesuffix(".base_layer")) for n in packed)
    assert len(packed) == 4 * 10 + 2 * 11 + 1, "main blocks; VACE's with proj_out, the first with proj_in"
    before = {n: m.weight.clone() for n, m in packed.items()}
    layer, x = base.blocks[0].attn1.to_q.base_layer, torch.randn(2, 5, 128)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight_of(layer), layer.bias), rtol=0, atol=1e-5)
    trained = teacher.trainable()
    assert all(".lora_" in n or n.startswith("resampler.") or ".processor." in n for n in trained)
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    teacher.train()
    for _ in range(2):  # B starts at zero: A moves in the second step
        optimizer.zero_grad()
        teacher(*inputs).pow(2).mean().backward()
        optimizer.step()
    assert [n for n, p in teacher.named_parameters() if (p.grad is not None) != (n in trained)] == []
    assert all(torch.equal(m.weight, before[n]) for n, m in packed.items())
    update = take_low_rank(base)["blocks.3.attn2.to_v"]
    assert update.up_OR.abs().max() > 0 and isinstance(update, LowRankLayer)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_update_on_four_bits_answers_as_on_the_rounded_weights(tiny, ask, drawn, kind):
    spec = LoraSpec(rank=3, alpha=6, kind=kind)
    four, rounded = tiny(), tiny()
    layers = drawn(four, spec)
    quantise_base(four)
    for name, module in four.named_modules():
        if QUANTISED.fullmatch(name):
            rounded.get_submodule(name).weight.copy_(weight_of(module))
    for model in (four, rounded):
        load_low_rank(model, layers)
    torch.testing.assert_close(ask(four), ask(rounded), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="kept in 4 bits.*without lora.quantize"):
        merge_low_rank(four)
