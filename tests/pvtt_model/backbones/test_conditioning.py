"""Every kind of backbone through one call: a fresh teacher is the plain diffusers model to the bit, and what does not fit is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvtt_model.backbones.conditioning import answered, context_channels, kind_of, velocity
from pvtt_model.backbones.dit import load_transformer
from pvtt_model.backbones.experts import level_range
from pvtt_model.objectives.noise_levels import sample_sigma
from pvtt_model.objectives.rectified_flow import answered_weights
from pvtt_model.reference.features import ReferenceFeatures
from pvtt_model.specs import BackboneSpec, LoraSpec, ReferenceSpec
from pvtt_model.training.teacher import build_teacher

KINDS = {"nano-s": "vace", "nano-t2v": "t2v", "nano-i2v": "i2v", "nano-i2v-a14b": "i2v", "nano-ti2v": "ti2v"}


def spec(name: str) -> BackboneSpec:
    return BackboneSpec(architecture=name, weights="seed:7", expert="high" if name.endswith("a14b") else None)


def given(transformer: Any, kind: Any) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    z, config = transformer.config.out_channels, transformer.config
    control = torch.randn(2, context_channels(transformer, kind), 3, 4, 4, generator=g)
    if kind == "ti2v":
        control[:, -1] = 0
        control[:, -1, 0] = 1
    image = torch.randn(2, 5, config.image_dim, generator=g) if config.image_dim else None
    noisy, text = torch.randn(2, z, 3, 4, 4, generator=g), torch.randn(2, 6, config.text_dim, generator=g)
    return {"noisy_BCFHW": noisy, "timestep_B": torch.tensor([200.0, 900.0]), "text_BLD": text, "control_BMFHW": control, "image_BNC": image}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("name", list(KINDS))
def test_a_fresh_teacher_is_the_base_to_the_bit_and_its_adapter_learns(name: str, every: int) -> None:
    base, kind = load_transformer(spec(name), None), KINDS[name]
    reference = ReferenceSpec(num_tokens=3, depth=1, width=32, num_heads=4, every_nth_layer=every)
    teacher = build_teacher(spec(name), reference, LoraSpec(rank=2, alpha=2, dropout=0.0), "nano-dinov2", None, torch.float32, 0).eval()
    assert teacher.kind == kind
    inputs = given(base, kind)
    pictures = torch.randn(2, 5, teacher.resampler.proj_in.in_features, generator=torch.Generator().manual_seed(1))
    sigma = inputs["timestep_B"] / 1000
    rest = (ReferenceFeatures(pictures, torch.ones(2, 5, dtype=torch.bool)), torch.ones(2), inputs["image_BNC"])
    out = teacher(inputs["noisy_BCFHW"], sigma, inputs["text_BLD"], inputs["control_BMFHW"], *rest)
    with torch.no_grad():
        plain = velocity(base, kind, inputs.pop("noisy_BCFHW"), sigma * 1000.0, **{k: v for k, v in inputs.items() if k != "timestep_B"})
    assert torch.equal(out, plain) and out.shape == (2, base.config.out_channels, 3, 4, 4)
    out.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in teacher.trainable().items() if "to_v_ref" in n or "lora_B" in n)


def test_contexts_and_images_that_do_not_fit_are_refused() -> None:
    transformer = load_transformer(spec("nano-i2v"), None)
    inputs = given(transformer, "i2v")
    with pytest.raises(ValueError, match="the context has 3 channels; this i2v transformer takes 36"):
        velocity(transformer, "i2v", **{**inputs, "control_BMFHW": inputs["control_BMFHW"][:, :3]})
    with pytest.raises(ValueError, match="reads image tokens. Give the first frame's CLIP tokens"):
        velocity(transformer, "i2v", **{**inputs, "image_BNC": None})
    with pytest.raises(ValueError, match="513 text tokens; a transformer that reads image tokens takes 512"):
        velocity(transformer, "i2v", **{**inputs, "text_BLD": torch.zeros(2, 513, 96)})
    plain = load_transformer(spec("nano-t2v"), None)
    with pytest.raises(ValueError, match="does not read image tokens. Leave them out"):
        velocity(plain, "t2v", **{**given(plain, "t2v"), "image_BNC": inputs["image_BNC"]})


def test_kinds_by_class_and_channels() -> None:
    found = {name: kind_of(load_transformer(spec(name), None)) for name in KINDS}
    assert found == {**KINDS, "nano-ti2v": "t2v"}, "TI2V-5B has to be named: its layout is a text-to-video model's"


def test_given_cells_do_not_count_in_the_loss() -> None:
    control = torch.zeros(1, 3, 2, 2, 2)
    assert answered("t2v", control) is None and answered_weights(None, None) is None
    control[:, -1, 0] = 1
    free = answered("ti2v", control)
    assert free[0, :, 0, 0].tolist() == [0, 1]
    assert answered_weights(None, free)[0, :, 0, 0].tolist() == [0, 2], "a mean of 1"
    weights = torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0]).view(1, 2, 2, 2)
    assert answered_weights(weights, free).mean() == 1 and answered_weights(weights, free)[0, 1, 0].tolist() == [1, 3]


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
def test_an_expert_sees_its_own_levels_as_often_as_the_whole_does(sampling: Any) -> None:
    two = [BackboneSpec(architecture="nano-t2v-a14b", weights="seed:0", expert=expert) for expert in ("high", "low")]
    assert [level_range(s) for s in two] == [(0.875, 1.0), (0.0, 0.875)] and level_range(spec("nano-s")) == (0.0, 1.0)
    whole = sample_sigma(40_000, sampling, 5.0, torch.Generator().manual_seed(0))
    for backbone in two:
        low, high = level_range(backbone)
        own = sample_sigma(40_000, sampling, 5.0, torch.Generator().manual_seed(1), low=low, high=high)
        assert low <= own.min() and own.max() <= high
        wanted = whole[(whole >= low) & (whole < high)].quantile(torch.tensor([0.1, 0.5, 0.9]))
        torch.testing.assert_close(own.quantile(torch.tensor([0.1, 0.5, 0.9])), wanted, rtol=0, atol=0.02)
