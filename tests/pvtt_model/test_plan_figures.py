"""The plan's figures against hand counts, peft, torch's FLOP counter and autograd's own saved tensors."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pvtt_model.backbones.dit import build_on_meta, load_transformer
from pvtt_model.plan import plan_recipe, planned_chain
from pvtt_model.plan_flops import sample_flops, video_tokens
from pvtt_model.plan_memory import block_activations, data_bytes
from pvtt_model.plan_parameters import count_parameters, lora_parameters, reference_parameters
from pvtt_model.plan_text import render
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import LoraSpec, ReferenceSpec, StageSpec
from pvtt_model.training.teacher import Teacher, lora_config

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def full():
    return plan_recipe(recipe_by_name("full"), "a source")


@pytest.mark.parametrize(("name", "width", "layers", "counts"), [("1.3b", 1536, 30, (47, 94, 189)), ("14b", 5120, 40, (210, 419, 839))])
def test_lora_by_hand(name, width, layers, counts):
    model = build_on_meta(f"wan2.1-vace-{name}")
    for rank, millions in zip((64, 128, 256), counts, strict=True):
        counted = lora_parameters(model, LoraSpec(rank=rank, alpha=rank))
        assert counted == layers * 8 * rank * 2 * width
        assert round(counted / 1e6) == millions


@pytest.mark.parametrize("targets", [("attn1", "attn2"), ("attn1",), ("attn2", "ffn")])
def test_lora_by_peft(targets):
    model, spec = build_on_meta("nano-m"), LoraSpec(rank=8, alpha=8, targets=targets)
    expected = lora_parameters(model, spec)
    model.requires_grad_(False)
    model.add_adapter(lora_config(spec))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def nano_stage(index: int = 0) -> StageSpec:
    return recipe_by_name("nano").stages[index]


@pytest.mark.parametrize("every", [1, 3])
def test_reference_parameters_are_those_of_the_module(every):
    spec = ReferenceSpec(num_tokens=16, depth=2, width=64, num_heads=4, every_nth_layer=every)
    with torch.device("meta"):
        teacher = Teacher(build_on_meta("nano-m"), spec, LoraSpec(rank=8, alpha=8), 48, 0)
    resampler, kv = reference_parameters(spec, 48, 96, 6)
    assert sum(p.numel() for p in teacher.resampler.parameters()) == resampler
    assert sum(p.numel() for n, p in teacher.named_parameters() if "_ref." in n) == kv


def test_backbones_by_hand(full):
    small, big = full.stages[0].parameters, full.stages[1].parameters
    assert (round(small.vace / 1e9, 2), round(big.vace / 1e9, 2)) == (0.73, 3.05)
    assert round(big.base * 2 / 1e9, 1) == 28.6  # GB in bfloat16
    assert small.reference_kv == 30 * 2 * 1024 * 1536 and big.reference_kv == 40 * 2 * 1024 * 5120
    d, f, text = 1536, 8960, 4096  # a main block: 8 projections, 4 RMS norms, norm2, feed-forward, table of 6
    block = 8 * (d * d + d) + 4 * d + 2 * d + (2 * d * f + f + d) + 6 * d
    rest = (64 * d + d) + (256 * d + d) + (d * d + d) + 6 * (d * d + d) + (text * d + d) + (d * d + d) + (64 * d + 64) + 2 * d
    assert small.base == 30 * block + rest
    assert small.vace == 15 * (block + d * d + d) + (d * d + d) + (384 * d + d)


def test_tokens_and_bytes_by_hand(full):
    recipe = recipe_by_name("full")
    assert full.tokens == 21 * 30 * 52 == 32_760
    data = data_bytes(recipe)
    assert data.latents == 21 * 60 * 104 * (3 * 16 * 2 + 64)
    assert data.conditions == (512 * 4096 + 16 * 16 * 1024) * 2
    assert data.masks == 81 * 480 * 832 // 8


def test_memory_by_hand(full):
    first, base = full.stages[0], full.stages[1]
    p, m = base.parameters, base.memory  # ZeRO-3 over 8
    everything = p.frozen + p.trained
    assert m.weights == 2 * everything // 8 and m.gradients == 2 * p.trained // 8 and m.optimizer == 12 * p.trained // 8
    assert m.buffers == 2 * 2 * 50_000_000 + 2 * 1_000_000_000
    inside = 32_760 * (74 * 5120 + 13_824 * 2 + 8 * 128 * 2 + 12 * 40)
    assert m.activations == 40 * 32_760 * 5120 * 2 + inside and m.activations_without_checkpointing == 40 * inside
    p, m = first.parameters, first.memory  # ZeRO-2 over 4: weights whole
    assert m.weights == 2 * (p.frozen + p.trained) and m.gradients == 2 * p.trained // 4 and m.optimizer == 12 * p.trained // 4
    offloaded = (
        plan_recipe(recipe_by_name("wan2.1-vace-14b", {"stages.*.parallel.offload_optimizer": True, "stages.*.parallel.offload_params": True}), "x")
        .stages[0]
        .memory
    )
    assert offloaded.weights == offloaded.optimizer == 0 and offloaded.host == base.memory.weights + base.memory.optimizer


def teacher_and_inputs(stage: StageSpec, checkpointing: bool, dtype: torch.dtype = torch.float32):
    model = load_transformer(stage.backbone, None, dtype)
    if checkpointing:
        model.enable_gradient_checkpointing()
    teacher = Teacher(model, stage.reference, stage.lora, 48, 0).to(dtype).train()
    inputs = (
        torch.randn(1, 16, 3, 8, 8, dtype=dtype),
        torch.rand(1, dtype=dtype),
        torch.randn(1, 32, 64, dtype=dtype),
        torch.randn(1, 96, 3, 8, 8, dtype=dtype),
        torch.randn(1, 16, 48, dtype=dtype),
        torch.ones(1, 16, dtype=torch.bool),
        torch.ones(1),
    )
    return teacher, inputs


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("override", [{}, {"lora.targets": ["attn2", "ffn"]}, {"lora.targets": ["attn1"], "reference.every_nth_layer": 2}])
def test_flops_by_torchs_counter(index, checkpointing, override):
    recipe = recipe_by_name("nano", {f"stages.*.{k}": v for k, v in override.items()} | {"stages.*.parallel.gradient_checkpointing": checkpointing})
    teacher, inputs = teacher_and_inputs(recipe.stages[index], checkpointing)
    with FlopCounterMode(display=False) as forward:
        teacher(*inputs)
    with FlopCounterMode(display=False) as step:
        teacher(*inputs).pow(2).mean().backward()
    flops = sample_flops(recipe.stages[index], video_tokens(recipe.latents), 32, 16, 48)
    assert flops.forward == pytest.approx(forward.get_total_flops(), rel=0.01)
    assert flops.total == pytest.approx(step.get_total_flops(), rel=0.03)


def saved_bytes(teacher, inputs) -> int:
    own = {p.untyped_storage()._cdata for p in teacher.parameters()}
    kept: dict[int, tuple[int, object]] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        teacher(*inputs)
    return sum(n for n, _ in kept.values())


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_by_autograds_saved_tensors(index, precision):
    """Beside the main blocks a nano step keeps the resampler's and, per block, 32 text tokens' LoRA (0.7 of 48 video ones), hence the margin."""
    teacher, inputs = teacher_and_inputs(nano_stage(index), False, getattr(torch, precision))
    layers = len(teacher.transformer.blocks)
    stage = recipe_by_name("nano", {"stages.*.parallel.precision": precision}).stages[index]
    inside, _ = block_activations(stage, 48)
    resampler = teacher.resampler
    outside = saved_bytes(resampler, (inputs[4], inputs[5]))
    assert layers * inside == pytest.approx(saved_bytes(teacher, inputs) - outside, rel=0.25)


def test_the_chain_changes_only_behind_what_changed():
    def names(**overrides):
        return {(stage, p.kind): p.version for stage, p in planned_chain(recipe_by_name("nano", overrides), "s")}

    before = names()
    assert len(before) == 4 + 3 * 4 + 1
    other = names(**{"conditions.max_text_tokens": 16})
    assert {k for k in before if before[k] == other[k]} == {(None, "clips"), (None, "masks"), (None, "latents")}
    lr = names(**{"stages.refine.optim.lr": 1e-5})
    assert {k for k in before if before[k] != lr[k]} == {("refine", k) for k in ("checkpoints", "edits", "reports", "gates")} | {(None, "releases")}
    execution = names(**{"stages.*.train.checkpoint_every_steps": 2, "stages.*.gate.on_failure": "continue", "description": "x"})
    assert execution == before


def test_json_and_text_hold_the_same(full):
    values = json.loads(json.dumps(full.as_dict()))
    assert values["stages"][1]["parameters"]["trained"] == full.stages[1].parameters.trained
    assert values["stages"][0]["epochs"] == [6.4, 32.0]
    text = render(full)
    assert "32,760 video tokens" in text and "LoRA r128 419.43 M" in text and "a GPU of 80 GiB: fits" in text
    assert max(map(len, text.splitlines())) <= 150


def test_counts_follow_the_stage():
    one, two = (count_parameters(nano_stage(i), 48) for i in (0, 1))
    assert one.frozen < two.frozen and one.resampler == two.resampler
