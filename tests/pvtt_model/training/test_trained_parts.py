"""What TrainSpec.trained names gets gradients and is kept, nothing else; under which names, and how the next stage takes it over."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvtt_model.backbones.dit import load_transformer
from pvtt_model.editing.sample import bare_backbone
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import BackboneSpec, LoraSpec, ReferenceSpec, TrainSpec
from pvtt_model.training.teacher import build_teacher, load_trainable
from pvtt_model.training.trained_tensors import ADAPTER, BACKBONE, LORA, join_trainable, part_of, parts_of, split_trainable

NANO = BackboneSpec(architecture="nano-s", weights="seed:7")


def taught(*trained: str, seed: int = 0) -> Any:
    reference = ReferenceSpec(num_tokens=3, depth=1, width=32, num_heads=4)
    return build_teacher(NANO, reference, LoraSpec(rank=4, alpha=4, dropout=0.0), "nano-dinov2", None, torch.float32, seed, trained).eval()


CHOICES = [("lora",), ("adapter",), ("lora", "adapter"), ("vace",), ("all",), ("lora", "adapter", "vace"), ("lora", "adapter", "all")]


@pytest.mark.parametrize("trained", CHOICES)
def test_gradients_reach_what_is_trained_and_nothing_else(trained: tuple[str, ...], teacher_inputs: Any) -> None:
    teacher = taught(*trained)
    assert {part_of(name) for name in teacher.trainable()} == set(parts_of(trained))
    teacher(*teacher_inputs(1)).square().mean().backward()
    touched = {part_of(name) for name, p in teacher.named_parameters() if p.grad is not None}
    assert touched == set(parts_of(trained))
    wholly = [name for name, p in teacher.trainable().items() if part_of(name) in ("vace", "base") and p.grad is None]
    assert wholly == [], "every weight of the backbone's trained parts has a gradient"


def test_the_default_is_what_it_was() -> None:
    assert TrainSpec(steps=1).trained == ("lora", "adapter") and "trained" not in TrainSpec(steps=1).identity()
    assert list(taught("lora", "adapter").trainable()) == list(taught("adapter", "lora").trainable())
    assert TrainSpec(steps=1, trained=("adapter", "lora")).trained == ("lora", "adapter")
    for wrong, message in (((), "nothing would be trained"), (("vace", "all"), "Name one of the two")):
        with pytest.raises(ValueError, match=message):
            TrainSpec(steps=1, trained=wrong)


def test_files_names_and_back() -> None:
    tensors = {n: p.detach() for n, p in taught("lora", "adapter", "all").trainable().items()}
    split = split_trainable(tensors)
    assert list(split.files()) == [LORA, ADAPTER, BACKBONE]
    own = load_trainable_names()
    assert set(split.backbone) == own, "the diffusers model's own names, so that it loads without this package"
    assert load_transformer(NANO, None).load_state_dict(split.backbone, strict=True)
    joined = join_trainable(*split)
    assert {n.replace(".base_layer.", ".") for n in tensors} == set(joined)
    assert list(split_trainable({n: p for n, p in tensors.items() if part_of(n) == "vace"}).files()) == [BACKBONE]
    assert split_trainable({"reference_probe.x": 1}).files() == {}


def load_trainable_names() -> set[str]:
    return set(load_transformer(NANO, None).state_dict())


@torch.no_grad()
def test_the_next_stage_takes_over_what_was_trained_and_trains_its_own() -> None:
    before = taught("adapter", "vace")
    for p in before.trainable().values():
        p.add_(0.5)
    kept = join_trainable(*split_trainable({n: p.detach().clone() for n, p in before.trainable().items()}))
    after = taught("lora", seed=3)
    report = load_trainable(after, kept, parts={part_of(n) for n in kept})
    assert len(report["loaded"]) == len(kept) and not report["fresh"] and not report["unused"]
    own = {n.replace(".base_layer.", "."): p for n, p in after.named_parameters()}
    assert all(torch.equal(own[n], kept[n]) for n in kept)
    assert {part_of(n) for n in after.trainable()} == {"lora"}
    with pytest.raises(ValueError, match="trained tensors match"):
        load_trainable(after, {n: t for i, (n, t) in enumerate(kept.items()) if i}, parts={part_of(n) for n in kept})


@torch.no_grad()
def test_the_bare_backbone_is_the_published_one_after_its_own_weights_were_trained(teacher_inputs: Any) -> None:
    inputs, teacher = teacher_inputs(1), taught("all")
    noisy, sigma, text, control = inputs[:4]
    trained = {n: p + 0.01 for n, p in teacher.trainable().items()}
    load_trainable(teacher, trained, keep_published=True)
    given = {"hidden_states": noisy, "timestep": sigma * 1000, "encoder_hidden_states": text, "control_hidden_states": control}
    published = load_transformer(NANO, None)(**given, return_dict=False)[0]
    after = teacher(*inputs)
    assert not torch.allclose(after, published, atol=1e-3)
    for _ in range(2):
        with bare_backbone(teacher):
            assert torch.equal(teacher.transformer(**given, return_dict=False)[0], published)
        assert torch.equal(teacher(*inputs), after)


def test_what_is_taken_over_untrained_has_to_fit() -> None:
    """nano: verify is of nano-s, base and refine of nano-m."""
    recipe_by_name("nano", {"stages.refine.train.trained": ["lora"]})
    with pytest.raises(
        ValueError, match=r"stage 'base' takes over what 'verify' trained, does not train \['adapter'\] itself, and has another backbone"
    ):
        recipe_by_name("nano", {"stages.base.train.trained": ["lora"]})
    with pytest.raises(ValueError, match=r"'refine' takes over what 'base' trained.*another lora"):
        recipe_by_name("nano", {"stages.refine.train.trained": ["all"], "stages.refine.lora.rank": 4})
