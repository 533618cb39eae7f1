"""The plan's figures against hand counts, peft, torch's FLOP counter and autograd's own saved tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pvtt_model.backbones.architectures import ARCHITECTURES, architecture
from pvtt_model.backbones.clip import clip_config
from pvtt_model.backbones.conditioning import context_channels
from pvtt_model.backbones.dit import load_transformer
from pvtt_model.plan import plan_recipe, planned_chain
from pvtt_model.plan_flops import first_frame_tokens, latent_size, sample_flops, video_tokens
from pvtt_model.plan_memory import block_activations, data_bytes, picture_tokens
from pvtt_model.plan_parameters import count_parameters, dit_width, frozen_parameters, trained_parameters
from pvtt_model.plan_table import published, table
from pvtt_model.plan_text import render
from pvtt_model.recipes import recipe_by_name
from pvtt_model.reference.features import ReferenceFeatures
from pvtt_model.specs import BackboneSpec, LoraSpec, RecipeSpec, ReferenceSpec, StageSpec
from pvtt_model.training.teacher import Teacher

torch.set_num_threads(1)
PARAMETERS = Path(__file__).parents[2] / "docs" / "parameters.md"


@pytest.fixture(scope="module")
def full():
    return plan_recipe(recipe_by_name("full"), "a source")


def nano_stage(index: int = 0) -> StageSpec:
    return recipe_by_name("nano").stages[index]


@pytest.mark.parametrize(
    ("name", "width", "layers", "rank", "millions"), [("1.3b", 1536, 30, 64, 47), ("1.3b", 1536, 30, 128, 94), ("14b", 5120, 40, 128, 419)]
)
def test_lora_by_hand(name, width, layers, rank, millions):
    counted = trained_parameters(f"wan2.1-vace-{name}", ReferenceSpec(), LoraSpec(rank=rank, alpha=rank), 1024).lora
    assert counted == layers * 8 * rank * 2 * width
    assert round(counted / 1e6) == millions


@pytest.mark.parametrize(("targets", "layers"), [(("attn1",), 4 * 2), (("attn2", "ffn"), 4 * 2 + 2 * (1 + 4))])
def test_lora_of_other_layers_by_hand(targets, layers):
    lora = trained_parameters("nano-m", ReferenceSpec(width=32, num_heads=4), LoraSpec(rank=8, alpha=8, targets=targets), 48).lora
    assert lora == 6 * 8 * layers * 192  # blocks x rank x (in + out), nano-m's feed-forward being four widths


def by_hand(spec: ReferenceSpec, image: int, config: dict[str, Any]) -> tuple[int, int]:
    """Resampler: proj_in, latents, its layers (q D^2, kv 2 D^2, out D^2, feed-forward 8 D^2, three LayerNorms), proj_out, LayerNorm; in the space
    'words' one more projection. K/V: 2 D W a hooked layer; in 'words' copies of the text's and a gate."""
    d, width, text = spec.width, dit_width(config), config["text_dim"]
    resampler = (image * d + d) + spec.num_tokens * d + spec.depth * (12 * d * d + 6 * d) + (d * d + d) + 2 * d
    hooked = -(-config["num_layers"] // spec.every_nth_layer) + (len(config["vace_layers"]) if spec.vace_blocks else 0)
    if spec.space == "words":
        return resampler + text * (d + 1), (2 * width * (width + 1) + 1) * hooked
    return resampler, 2 * d * width * hooked


@pytest.mark.parametrize("vace", [False, True])
@pytest.mark.parametrize("space", ["own", "words"])
@pytest.mark.parametrize("every", [1, 3])
def test_reference_parameters_by_hand(every, space, vace):
    spec = ReferenceSpec(num_tokens=16, depth=2, width=64, num_heads=4, every_nth_layer=every, space=space, vace_blocks=vace)
    trained = trained_parameters("nano-m", spec, LoraSpec(rank=8, alpha=8), 48)
    assert (trained.reference_encoder, trained.reference_kv) == by_hand(spec, 48, architecture("nano-m").config)
    assert trained.total == trained.lora + trained.reference_encoder + trained.reference_kv and trained.backbone == 0


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
    assert frozen_parameters("wan2.1-t2v-1.3b") == (small.base, 0) and frozen_parameters("wan2.2-t2v-a14b") == (big.base, 0)


def test_backbones_of_other_kinds_by_hand():
    text, d, f = 4096, 5120, 13824
    plain = frozen_parameters("wan2.1-t2v-14b")[0]
    more = 20 * 4 * d  # 4 mask channels and 16 latent ones more at the patches' 2 x 2 cells
    assert frozen_parameters("wan2.2-i2v-a14b")[0] == plain + more
    image = 2 * 1280 + (1280 * 1280 + 1280) + (1280 * d + d) + 2 * d  # two LayerNorms and a feed-forward of CLIP's width
    assert frozen_parameters("wan2.1-i2v-14b-480p")[0] == plain + more + image + 40 * (2 * (d * d + d) + d)  # K, V and a norm a block
    d, f = 3072, 14336
    block = 8 * (d * d + d) + 4 * d + 2 * d + (2 * d * f + f + d) + 6 * d
    rest = (192 * d + d) + (256 * d + d) + (d * d + d) + 6 * (d * d + d) + (text * d + d) + (d * d + d) + (192 * d + 192) + 2 * d
    assert frozen_parameters("wan2.2-ti2v-5b") == (30 * block + rest, 0)
    assert round(frozen_parameters("wan2.2-ti2v-5b")[0] / 1e9, 1) == 5.0


def test_the_page_of_parameters_names_every_backbone():
    """What it says of them is in the slow suite. `python -m pvtt_model.plan_table > docs/parameters.md` makes it anew."""
    page = PARAMETERS.read_text().splitlines()
    assert [name for name in published() if not any(line.startswith(f"| {name} |") for line in page)] == []


@pytest.mark.slow
def test_the_whole_page_of_parameters_is_what_the_command_prints():
    assert PARAMETERS.read_text() == table()


def test_the_page_and_the_plan_agree(full):
    stage = full.stages[0].parameters
    row = next(line for line in PARAMETERS.read_text().splitlines() if line.startswith("| wan2.1-vace-1.3b | ip_adapter_plus |"))
    assert row.split(" | ")[2:6] == [f"{n / 1e6:,.2f} M" for n in (stage.reference_encoder, stage.reference_kv, stage.lora, stage.trained)]


def test_tokens_and_bytes_by_hand(full):
    recipe = recipe_by_name("full")
    assert full.tokens == 21 * 30 * 52 == 32_760
    data = data_bytes(recipe)
    assert data.latents == 21 * 60 * 104 * (3 * 16 * 2 + 8)
    assert data.conditions == (512 * 4096 + 16 * 16 * 1024) * 2
    assert data.masks == 81 * 480 * 832 // 8


def test_data_bytes_follow_the_vae_and_the_mask_variants():
    recipe = recipe_by_name("nano", {"latents.variants": 3, "latents.dtype": "float32"})
    z, (frames, height, width) = architecture("nano-vae").config["z_dim"], latent_size(recipe.latents)
    clip, halves, mask = z * 4, 2 * z * 4, 8  # the clip's own latents; of each mask variant VACE's two halves and the mask's bits
    assert data_bytes(recipe).latents == frames * height * width * (clip + 3 * (halves + mask))
    twice = recipe_by_name("nano", {"latents.variants": 3, "latents.dtype": "float32", "latents.video_variants": 2})
    assert data_bytes(twice).latents == 2 * data_bytes(recipe).latents


def test_data_bytes_of_clip_tokens_and_of_vaces_references():
    plain = recipe_by_name("full")
    clip = {"architecture": "openclip-vit-h14", "weights": "/models/clip"}
    more = recipe_by_name("full", {"conditions.clip_encoder": clip, "latents.references": "white"})
    assert data_bytes(more).latents - data_bytes(plain).latents == 60 * 104 * 16 * 2
    assert data_bytes(more).conditions - data_bytes(plain).conditions == (257 * 1280 + 1024) * 2
    first = recipe_by_name("full", {"latents.first_frame": True, "latents.first_frame_clip": clip})
    assert data_bytes(first).latents - data_bytes(plain).latents == (21 * 60 * 104 * 16 + 257 * 1280) * 2
    known, ours = clip_config(architecture("openclip-vit-h14").config), architecture("openclip-vit-h14").config
    assert known["embed_dim"] == ours["embed_dim"] and ours["vision_cfg"].items() <= known["vision_cfg"].items()
    assert plain.conditions.identity().keys() & {"clip_encoder", "captions"} == set() and "references" not in plain.latents.identity()


def test_memory_by_hand(full):
    first, base = full.stages[0], full.stages[1]
    p, m = base.parameters, base.memory  # ZeRO-3 over 8
    everything = p.frozen + p.trained
    assert m.weights == 2 * everything // 8 and m.gradients == 2 * p.trained // 8 and m.optimizer == 12 * p.trained // 8
    assert m.buffers == 2 * 2 * 50_000_000 + 2 * 1_000_000_000
    inside = 32_760 * ((8 * 2 + 7 * 4 + 9 * 2) * 5120 + 13_824 * 2 + 6 * 128 * 2 + 12 * 40 + 36)
    assert m.activations == 40 * 32_760 * 5120 * 2 + inside and m.activations_without_checkpointing == 40 * inside
    p, m = first.parameters, first.memory  # ZeRO-2 over 4: weights whole
    assert m.weights == 2 * (p.frozen + p.trained) and m.gradients == 2 * p.trained // 4 and m.optimizer == 12 * p.trained // 4
    four = plan_recipe(recipe_by_name("wan2.1-vace-1.3b", {"stages.*.lora.quantize": "nf4"}), "x").stages[0]
    p, packed = four.parameters, four.parameters.block_linear
    d, f = 1536, 8960  # 8 projections and the feed-forward of 30 + 15 blocks, VACE's proj_out, and its first block's proj_in
    assert packed == 45 * (8 * d * d + 2 * d * f) + 16 * d * d
    assert four.memory.weights == 2 * (p.frozen + p.trained - packed) + packed // 2 + packed // 64 + 4 * packed // 16384
    offloaded = (
        plan_recipe(recipe_by_name("wan2.1-vace-14b", {"stages.*.parallel.offload_optimizer": True, "stages.*.parallel.offload_params": True}), "x")
        .stages[0]
        .memory
    )
    assert offloaded.weights == offloaded.optimizer == 0 and offloaded.host == base.memory.weights + base.memory.optimizer


def teacher_and_inputs(recipe: RecipeSpec, stage: StageSpec, checkpointing: bool, dtype: torch.dtype = torch.float32):
    """A random teacher of the stage, its gates open, and one sample of the recipe's sizes."""
    model = load_transformer(BackboneSpec(**{**dict(stage.backbone), "weights": "seed:0"}), None, dtype)
    if checkpointing:
        model.enable_gradient_checkpointing()
    kind, picture, config = architecture(stage.backbone.architecture).kind, picture_tokens(recipe), model.config
    teacher = Teacher(model, stage.reference, stage.lora, picture.image_width, 0, kind=kind, clip_width=picture.clip_width).to(dtype).train()
    for parameter in (p for n, p in teacher.named_parameters() if n.endswith(".gate")):
        torch.nn.init.constant_(parameter, 0.1)
    size, image = latent_size(recipe.latents), None
    if config.image_dim is not None:
        image = torch.randn(1, first_frame_tokens(recipe), config.image_dim, dtype=dtype)
    inputs = (
        torch.randn(1, config.out_channels, *size, dtype=dtype),
        torch.rand(1, dtype=dtype),
        torch.randn(1, recipe.conditions.max_text_tokens, config.text_dim, dtype=dtype),
        torch.randn(1, context_channels(model, kind), *size, dtype=dtype),
        ReferenceFeatures(
            patches_BPC=torch.randn(1, picture.patches, picture.image_width, dtype=dtype),
            keep_BP=torch.ones(1, picture.patches, dtype=torch.bool),
            cls_BNC=torch.randn(1, 1, picture.image_width, dtype=dtype),
            clip_BPC=torch.randn(1, picture.clip, picture.clip_width, dtype=dtype),
        ),
        torch.ones(1),
        image,
    )
    return teacher, inputs


@pytest.mark.parametrize("index", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "override",
    [
        {},
        {"reference.space": "own", "reference.vace_blocks": False, "objective.words_weight": 0.0},
        {"lora.targets": ["attn2", "ffn"]},
        {"lora.targets": ["attn1"], "reference.every_nth_layer": 2},
        {"lora.targets": ["attn2.to_k", "attn1", "ffn.net.2"], "lora.rank_pattern": {"attn1": 8, "attn1.to_q": 4}, "lora.blocks": [1, 3]},
        {"lora.kind": "dora"},
    ],
)
def test_flops_by_torchs_counter(index, checkpointing, override):
    recipe = recipe_by_name("nano", {f"stages.*.{k}": v for k, v in override.items()} | {"stages.*.parallel.gradient_checkpointing": checkpointing})
    teacher, inputs = teacher_and_inputs(recipe, recipe.stages[index], checkpointing)
    with FlopCounterMode(display=False) as forward:
        teacher(*inputs)
    with FlopCounterMode(display=False) as step:
        teacher(*inputs).pow(2).mean().backward()
    flops = sample_flops(recipe.stages[index], video_tokens(recipe.latents), recipe.conditions.max_text_tokens, picture_tokens(recipe))
    assert flops.forward == pytest.approx(forward.get_total_flops(), rel=0.01)
    assert flops.total == pytest.approx(step.get_total_flops(), rel=0.03)


KINDS = ("nano-t2v", "nano-i2v", "nano-i2v-a14b", "nano-ti2v")


CLIP = {"architecture": "nano-openclip", "weights": "seed:0"}


def of_kind(name: str, *, checkpointing: bool = False, frames: int = 5, precision: str = "float32") -> tuple[RecipeSpec, Any, Any]:
    """The nano recipe on another backbone; its first stage's teacher, and one sample."""
    arch = ARCHITECTURES[name]
    backbone = {"architecture": name, "weights": "seed:0", "expert": "high" if arch.boundary else None}
    overrides: dict[str, Any] = {"stages.*.backbone": backbone, "stages.*.reference.vace_blocks": False, "latents.video.num_frames": frames}
    overrides |= {"latents.vae": {"architecture": arch.vae, "weights": "seed:0"}, "stages.*.parallel.precision": precision}
    overrides |= {"stages.*.parallel.gradient_checkpointing": checkpointing, "latents.video.width": 128}
    overrides |= {"latents.first_frame": arch.kind == "i2v", "latents.first_frame_clip": CLIP if arch.config.get("image_dim") else None}
    recipe = recipe_by_name("nano", overrides)
    return recipe, *teacher_and_inputs(recipe, recipe.stages[0], checkpointing, getattr(torch, precision))


def flops_of(teacher: Teacher, inputs: Any) -> tuple[int, int]:
    """FLOPs of a forward pass and of a training step, by torch's counter."""
    with FlopCounterMode(display=False) as forward:
        teacher(*inputs)
    with FlopCounterMode(display=False) as step:
        teacher(*inputs).pow(2).mean().backward()
    return forward.get_total_flops(), step.get_total_flops()


@pytest.mark.parametrize(("name", "checkpointing"), [*((name, False) for name in KINDS), ("nano-i2v", True), ("nano-ti2v", True)])
def test_flops_of_every_kind_by_torchs_counter(name, checkpointing):
    recipe, teacher, inputs = of_kind(name, checkpointing=checkpointing)
    forward, step = flops_of(teacher, inputs)
    planned = plan_recipe(recipe, "x").stages[0].flops
    assert planned.forward == pytest.approx(forward, rel=0.01)
    assert planned.total == pytest.approx(step, rel=0.03)
    assert planned.vace == 0


def of_injection(name: str, space: str, **more: Any) -> RecipeSpec:
    stages = {"stages.*.reference.injection": name, "stages.*.reference.space": space, "stages.*.objective.words_weight": 0.0}
    wanted = {"conditions.class_tokens": True, "conditions.clip_encoder": CLIP, "latents.references": "white"}
    return recipe_by_name("nano", stages | wanted | more)


@pytest.mark.parametrize("space", ["own", "words"])
@pytest.mark.parametrize("injection", ["ip_adapter", "dual_path"])
def test_flops_of_the_other_injections_by_torchs_counter(injection, space):
    """What the reference costs, apart from the rest."""
    recipe = of_injection(injection, space, **{"stages.*.reference.vace_blocks": False})
    teacher, inputs = teacher_and_inputs(recipe, recipe.stages[0], False)
    forward, step = flops_of(teacher, inputs)
    planned = plan_recipe(recipe, "x").stages[0].flops
    assert planned.forward == pytest.approx(forward, rel=0.002)
    assert planned.total == pytest.approx(step, rel=0.03)


def test_what_is_not_counted_is_said():
    plan = plan_recipe(of_injection("reference_net", "own"), "x")
    assert "not counted  FLOPs and activations of the injection reference_net" in render(plan) and plan.stages[0].flops.reference == 0
    assert max(map(len, render(plan).splitlines())) <= 150
    assert "FLOPs and activations of the injection" in json.dumps(plan.as_dict())
    assert "not counted" not in render(plan_recipe(recipe_by_name("nano"), "x"))


@pytest.mark.parametrize(("name", "precision"), [*((name, "float32") for name in KINDS), ("nano-i2v", "bfloat16"), ("nano-ti2v", "bfloat16")])
def test_activations_of_every_kind_by_autograds_saved_tensors(name, precision):
    """As below: by the difference that more frames make."""
    kept, inside = [], []
    for frames in (5, 13):
        recipe, teacher, inputs = of_kind(name, frames=frames, precision=precision)
        kept.append(saved_bytes(teacher, partial(teacher, *inputs)))
        tokens, config = video_tokens(recipe.latents), architecture(name).config
        on_cpu = 6 * tokens * dit_width(config) if precision == "bfloat16" else 0
        inside.append((block_activations(recipe.stages[0], tokens)[0] + on_cpu) * config["num_layers"])
    assert inside[1] - inside[0] == pytest.approx(kept[1] - kept[0], rel=0.06)


def saved_bytes(teacher: Any, run: Callable[[], Any]) -> int:
    own = {p.untyped_storage()._cdata for p in teacher.parameters()}
    kept: dict[int, tuple[int, object]] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    return sum(n for n, _ in kept.values())


@pytest.mark.parametrize("index", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_activations_by_autograds_saved_tensors(index, precision, dropout):
    """By the difference that more frames make, so that text, reference and resampler drop out. In bfloat16 a CPU keeps 6 bytes more of the
    reference's attention, in float32 there (see attend). The margin is for what stands outside the
    blocks, and for the first one's q, k and v, whose input wants no gradient and so no dropout's mask. VACE's blocks are counted as
    main ones and keep less, without LoRA."""
    kept, inside = _kept_and_planned(index, precision, dropout, vace_blocks=False)
    assert inside == pytest.approx(kept, rel=0.04)
    more_kept, more_planned = (b - a for a, b in zip((kept, inside), _kept_and_planned(index, precision, dropout, vace_blocks=True), strict=True))
    assert 0.3 * more_planned < more_kept < more_planned


def _kept_and_planned(index: int, precision: str, dropout: float, *, vace_blocks: bool) -> tuple[int, int]:
    """Bytes that more frames make autograd keep, and what the formula says of them."""
    kept, inside = [], []
    for frames in (5, 13):
        overrides = {"stages.*.reference.vace_blocks": vace_blocks, "latents.video.num_frames": frames}
        overrides |= {"stages.*.parallel.precision": precision, "stages.*.lora.dropout": dropout}
        recipe = recipe_by_name("nano", overrides)
        stage = recipe.stages[index]
        teacher, inputs = teacher_and_inputs(recipe, stage, False, getattr(torch, precision))
        kept.append(saved_bytes(teacher, partial(teacher, *inputs)))
        tokens, config = video_tokens(recipe.latents), architecture(stage.backbone.architecture).config
        on_cpu = 6 * tokens * dit_width(config) if precision == "bfloat16" else 0
        blocks = config["num_layers"] + (len(config["vace_layers"]) if vace_blocks else 0)
        inside.append((block_activations(stage, tokens)[0] + on_cpu) * blocks)
    return kept[1] - kept[0], inside[1] - inside[0]


def test_the_chain_changes_only_behind_what_changed():
    def names(**overrides):
        return {(stage, p.kind): p.version for stage, p in planned_chain(recipe_by_name("nano", overrides), "s")}

    before = names()
    assert len(before) == 5 + 3 * 4 + 1
    other = names(**{"conditions.max_text_tokens": 16})
    assert {k for k in before if before[k] == other[k]} == {(None, "clips"), (None, "masks"), (None, "latents")}
    lr = names(**{"stages.refine.optim.lr": 1e-5})
    assert {k for k in before if before[k] != lr[k]} == {("refine", k) for k in ("checkpoints", "edits", "reports", "gates")} | {(None, "releases")}
    risky = names(**{"masks.risky_area": 0.5, "masks.risky_agreement": 0.1})
    assert {k for k in before if before[k] != risky[k]} == {(None, "cards")}, "judged where it is shown"
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
    assert one.frozen < two.frozen and one.reference_encoder == two.reference_encoder
