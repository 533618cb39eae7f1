"""The recipes by name, and overrides by dotted path.

`wan2.1-vace-1.3b`, `wan2.1-vace-14b` and `full` are the survey's three stages (10.1) with its hyper-parameters (10.2 to
10.5). Where the survey is silent (number of steps, thresholds of what is measured, learning rate of the last stage) the
value is ours, and said so beside it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from pvtt_model.backbones.architectures import Family, architecture, clip_channels, latent_grid, refuse_wrong_expert
from pvtt_model.nano.shipped import shipped
from pvtt_model.specs import (
    BackboneSpec,
    ConditionSpec,
    DataSpec,
    EditSpec,
    EvalSpec,
    GateSpec,
    LatentSpec,
    LoraSpec,
    MaskPolicy,
    ModelSpec,
    MoreMetrics,
    NanoWorldSpec,
    ObjectiveSpec,
    OptimSpec,
    ParallelSpec,
    RecipeSpec,
    ReferenceSpec,
    StageSpec,
    Threshold,
    TrainSpec,
    VideoSpec,
)

RecipeName = Literal["nano", "nano-long", "nano-wide", "wan2.1-vace-1.3b", "wan2.1-vace-14b", "full"]

# Hub ids as published; a revision must be the commit one has checked. 'main' is refused by infra/weights.py at run time.
WAN_VAE = ModelSpec(architecture="wan2.1-vae", weights="hf://Wan-AI/Wan2.1-VACE-1.3B-diffusers", revision="unpinned")
UMT5_XXL = ModelSpec(architecture="umt5-xxl", weights="hf://Wan-AI/Wan2.1-VACE-1.3B-diffusers", revision="unpinned")
DINOV2_L = ModelSpec(architecture="dinov2-vit-l14", weights="hf://timm/vit_large_patch14_dinov2.lvd142m", revision="unpinned")
OPENCLIP_H = ModelSpec(architecture="openclip-vit-h14", weights="hf://laion/CLIP-ViT-H-14-laion2B-s32B-b79K", revision="unpinned")

# Ours: the survey's 832 x 480, and about its area (no larger, so memory is planned for it) at 4:3, 1:1, 3:4 and 9:16.
SURVEY_VIDEO = VideoSpec(width=832, height=480, num_frames=81, fps=16, buckets=((720, 544), (624, 624), (544, 720), (480, 832)))
SURVEY_LATENTS = LatentSpec(video=SURVEY_VIDEO, vae=WAN_VAE)
SURVEY_CONDITIONS = ConditionSpec(text_encoder=UMT5_XXL, image_encoder=DINOV2_L)
SURVEY_EVAL = EvalSpec(clip=OPENCLIP_H, dino=DINOV2_L)


def _gate(**least: float) -> GateSpec:
    """Thresholds by metric; a name ending in `_below` is an upper bound."""
    lines = [Threshold(metric=name.removesuffix("_below"), op="<" if name.endswith("_below") else ">", value=value) for name, value in least.items()]
    return GateSpec(thresholds=tuple(lines))


#: Ours: 16 clips at ten levels are 160 forward passes, about what 1.5 steps of 32 samples cost; two edits of 20 denoising steps.
SEEN: dict[str, Any] = {"validate_every_steps": 500, "validate_clips": 16, "sample_every_steps": 1000, "sample_steps": 20}

# Survey 10.1, stage 1: LoRA rank 64, 4 x A100 80 GB, 10K-50K pairs, CLIP-I > 0.75. Global batch 32 = 1 x 4 x 8.
VERIFY = StageSpec(
    name="verify",
    backbone=BackboneSpec(architecture="wan2.1-vace-1.3b", weights="hf://Wan-AI/Wan2.1-VACE-1.3B-diffusers", revision="unpinned"),
    lora=LoraSpec(rank=64, alpha=64),
    parallel=ParallelSpec(num_workers=4, grad_accum=8, zero_stage=2),
    train=TrainSpec(steps=10_000, **SEEN),  # ours: 32 x 10,000 is 6 to 32 epochs of 10K-50K
    data=DataSpec(min_pairs=10_000, max_pairs=50_000),
    evaluate=SURVEY_EVAL,
    gate=_gate(clip_i=0.75),
)

# Stage 2: rank 128, 8 GPUs, ZeRO-3, 100K-300K pairs, CLIP-I > 0.80, FVD < 150. Global batch 32 = 1 x 8 x 4.
BASE_14B = StageSpec(
    name="base",
    backbone=BackboneSpec(architecture="wan2.1-vace-14b", weights="hf://Wan-AI/Wan2.1-VACE-14B-diffusers", revision="unpinned"),
    train=TrainSpec(steps=30_000, **SEEN),  # ours
    data=DataSpec(min_pairs=100_000, max_pairs=300_000),
    evaluate=SURVEY_EVAL,
    gate=_gate(clip_i=0.80, fvd_below=150.0),
)

# Stage 3: from stage 2's checkpoint, lower rate, 50K-100K selected pairs, CLIP-I > 0.85, FVD < 100, BG-PSNR > 30 dB.
REFINE_14B = BASE_14B.model_copy(
    update={
        "name": "refine",
        "init_from": "previous",
        "optim": OptimSpec(lr=2e-5),  # the survey says "lower"; a fifth is ours
        "train": TrainSpec(steps=10_000, **SEEN),  # ours
        "data": DataSpec(min_pairs=50_000, max_pairs=100_000, select="best"),
        "gate": _gate(clip_i=0.85, fvd_below=100.0, bg_psnr_db=30.0),
    }
)


def _survey(name: str, description: str, *stages: StageSpec) -> RecipeSpec:
    return RecipeSpec(name=name, description=description, latents=SURVEY_LATENTS, conditions=SURVEY_CONDITIONS, stages=stages)


# --- nano: every code path of the big recipes at sizes that two cores carry, on models trained in the nano world and shipped.
NANO_VIDEO = VideoSpec(width=64, height=64, num_frames=5)
NANO_CLIP, NANO_DINO, NANO_JUDGE, NANO_FVD = (shipped(name, ModelSpec) for name in ("clip", "dinov2", "judge", "video"))
EVERY_METRIC: tuple[MoreMetrics, ...] = ("flicker", "dynamic_degree", "structure_distance", "edit_direction")
CONTEXT = ("base", "no_reference", "wrong_reference")
NANO_EDIT = EditSpec(
    num_steps=4,
    scheduler="flow_euler",
    shift=2.0,
    guidance_text=1.0,
    guidance_reference=2.0,
    max_clips=64,
    reference="swap",
    background="blended",
    feather_px=2,
)


def _nano_stage(name: str, backbone: str, steps: int, micro_batch: int, lr: float, words: float, gate: GateSpec, **changes: Any) -> StageSpec:
    stage = StageSpec(
        name=name,
        backbone=shipped(backbone, BackboneSpec),
        reference=ReferenceSpec(space="words", num_tokens=16, depth=2, width=128, num_heads=4, vace_blocks=True),
        lora=LoraSpec(rank=16, alpha=16, dropout=0.0),
        objective=ObjectiveSpec(
            timestep_sampling="logit_normal", shift=6.0, text_dropout=0.1, reference_dropout=0.1, mask_weight=10.0, words_weight=words
        ),
        optim=OptimSpec(lr=lr, warmup_steps=20, beta2=0.99, decay="cosine"),
        parallel=ParallelSpec(
            num_workers=2, accelerator="cpu", zero_stage=2, micro_batch=micro_batch, grad_accum=1, precision="float32", gradient_checkpointing=False
        ),
        train=TrainSpec(steps=steps, checkpoint_every_steps=100, validate_every_steps=50, sample_every_steps=100),
        data=DataSpec(min_pairs=1),
        edit=NANO_EDIT,
        evaluate=EvalSpec(clip=NANO_CLIP, dino=NANO_DINO, judge=NANO_JUDGE, fvd=NANO_FVD, more=EVERY_METRIC),
        gate=gate,
    )
    return stage.model_copy(update=changes)


# The gates ask for what a disconnected or untrained adapter cannot do; the figures reached stand in LOG.md.
NANO = RecipeSpec(
    name="nano",
    description="the embedded default: a procedural world with known right answers, small trained models, two CPU workers",
    world=NanoWorldSpec(num_clips=1000, num_validation=16, num_eval=200),
    latents=LatentSpec(
        video=NANO_VIDEO,
        vae=shipped("vae", ModelSpec),
        mask_policy=MaskPolicy(kind="square", grow_px=2, jitter_px=2),
        variants=2,
        dtype="float32",
    ),
    conditions=ConditionSpec(
        text_encoder=shipped("text", ModelSpec), max_text_tokens=24, image_encoder=NANO_DINO, image_size=64, product_words="hide", dtype="float32"
    ),
    stages=(
        _nano_stage("verify", "nano-s", 200, 8, 1e-3, 1.0, _gate(bg_psnr_composited_db=30.0, identity_top1=0.15)),
        _nano_stage("base", "nano-m", 280, 16, 1e-3, 0.3, _gate(bg_psnr_composited_db=30.0, identity_top1=0.4), init_from="previous"),
        _nano_stage(
            "refine",
            "nano-m",
            120,
            16,
            5e-4,
            0.3,
            _gate(bg_psnr_composited_db=30.0, identity_top1=0.5, identity_wrong_reference_shown=0.7),
            init_from="previous",
            data=DataSpec(min_pairs=1, max_pairs=800, select="best"),
            edit=NANO_EDIT.model_copy(update={"max_clips": 200, "baselines": CONTEXT}),
        ),
    ),
)

# The same curriculum for about half an hour on two cores.
NANO_LONG = NANO.model_copy(
    update={
        "name": "nano-long",
        "description": "nano with twice the clips and three to five times the steps",
        "world": NANO.world.model_copy(update={"num_clips": 2000}),
        "stages": tuple(
            s.model_copy(update={"train": s.train.model_copy(update={"steps": steps})})
            for s, steps in zip(NANO.stages, (600, 1500, 500), strict=True)
        ),
    }
)

# One's own 16:9 clips on two cores: the same models at 224 x 128, 17 frames.
NANO_WIDE = NANO.model_copy(
    update={
        "name": "nano-wide",
        "description": "nano for one's own clips near 16:9",
        "latents": NANO.latents.model_copy(
            update={
                "video": VideoSpec(width=224, height=128, num_frames=17),
                "mask_policy": MaskPolicy(kind="square", grow_px=6, jitter_px=4),
            }
        ),
        "conditions": NANO.conditions.model_copy(update={"max_text_tokens": 64, "product_words": "keep"}),
        "clips": NANO.clips.model_copy(update={"eval_share": 0.5}),
        "world": NanoWorldSpec(num_clips=8, num_eval=4, look_alikes=2, width=224, height=128, num_frames=17),
        "stages": tuple(
            s.model_copy(
                update={
                    "edit": s.edit.model_copy(update={"reference": "own", "clips": "all", "max_clips": 8}),
                    "train": s.train.model_copy(update={"steps": 20}),
                    "gate": _gate(bg_psnr_composited_db=20.0, frame_ssim_composited=0.3),
                }
            )
            for s in NANO.stages
        ),
    }
)

RECIPES: dict[str, RecipeSpec] = {
    "nano": NANO,
    "nano-long": NANO_LONG,
    "nano-wide": NANO_WIDE,
    "wan2.1-vace-1.3b": _survey("wan2.1-vace-1.3b", "the survey's stage 1: does the pipeline hold", VERIFY),
    "wan2.1-vace-14b": _survey("wan2.1-vace-14b", "the survey's stages 2 and 3", BASE_14B, REFINE_14B),
    "full": _survey(
        "full", "the survey's curriculum: 1.3B, then 14B, then refined", VERIFY, BASE_14B.model_copy(update={"init_from": "previous"}), REFINE_14B
    ),
}


def recipe_by_name(name: str, overrides: Mapping[str, Any] | None = None) -> RecipeSpec:
    """The recipe, with `overrides` by dotted path applied and the whole checked again.

    A path names fields from the recipe down: 'latents.video.width', 'stages.verify.train.steps', 'stages.0.optim.lr',
    'stages.*.train.steps' for every stage. Raises ValueError naming the valid choices for an unknown recipe, field or value.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe '{name}'. {_choices(name, list(RECIPES))}")
    values = RECIPES[name].model_dump(mode="json")
    for path, value in (overrides or {}).items():
        set_by_path(values, path, value)
    try:
        recipe = RecipeSpec.model_validate(values)
        _check_roles(recipe)
        return recipe
    except ValidationError as error:
        found = [e for e in error.errors() if e["type"] != "too_short"] or error.errors()  # a bad stage also counts as none
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {_short(e)})" for e in found)
        raise ValueError(f"recipe '{name}' with overrides of {sorted(overrides or {})} is not valid: {lines}") from None


def _short(error: Any) -> str:
    """The refused value, short; where weights lie is not repeated, as it may hold a credential."""
    text = "..." if error["loc"] and error["loc"][-1] == "weights" else repr(error["input"])
    return text if len(text) <= 80 else text[:77] + "..."


#: The family of what EvalSpec's fields name.
JUDGED_BY: dict[str, Family] = {
    "clip": "clip", "dino": "image", "judge": "image", "flow": "flow", "lpips": "perceptual", "fvd": "video", "fid": "inception",
}  # fmt: skip


def _check_roles(recipe: RecipeSpec) -> None:
    """Every architecture exists and is of the family its place wants, and shipped weights are there and of it. Raises ValueError."""
    wanted: list[tuple[ModelSpec, Family]] = [
        (recipe.latents.vae, "vae"),
        (recipe.conditions.text_encoder, "text"),
        (recipe.conditions.image_encoder, "image"),
    ]
    wanted += [(recipe.masks.image_encoder, "image")] if recipe.masks.image_encoder else []
    wanted += [(recipe.masks.sam2, "sam2")] if recipe.masks.sam2 else []
    wanted += [(recipe.conditions.clip_encoder, "clip")] if recipe.conditions.clip_encoder else []
    wanted += [(recipe.latents.first_frame_clip, "clip")] if recipe.latents.first_frame_clip else []
    for stage in recipe.stages:
        wanted += [(stage.backbone, "dit"), *((model, JUDGED_BY[name]) for name, model in stage.evaluate.models().items())]
    for spec, family in wanted:
        architecture(spec.architecture, family)
        if spec.weights.startswith("nano:"):
            of = shipped(spec.weights.removeprefix("nano:"), ModelSpec).architecture
            if of != spec.architecture:
                raise ValueError(
                    f"weights '{spec.weights}' are of architecture '{of}', not '{spec.architecture}'. Set `architecture` and `weights` together."
                )
    for stage in recipe.stages:
        if stage.init_from == "release":
            raise ValueError(f"stage '{stage.name}': init_from='release' is set by the flow `retrain` alone. Use 'base' or 'previous'.")
        refuse_wrong_expert(stage.backbone.architecture, stage.backbone.expert)
        _check_latents(recipe.latents, stage)
        _check_kind(recipe.latents, stage)
    config = architecture(recipe.conditions.image_encoder.architecture, "image").config
    if "convnet" in config:
        raise ValueError(
            f"conditions.image_encoder '{recipe.conditions.image_encoder.architecture}' is a ConvNet and has no patch tokens. "
            "Use a ViT, e.g. nano-dinov2."
        )
    patch = config["patch"]
    if recipe.conditions.image_size % patch:
        raise ValueError(f"conditions.image_size {recipe.conditions.image_size} is not a multiple of the image encoder's patch of {patch} pixels.")


def _check_latents(latents: LatentSpec, stage: StageSpec) -> None:
    """The stage's backbone works on the VAE's latents, and every bucket is whole tokens. Raises ValueError."""
    name, vae = stage.backbone.architecture, latents.vae.architecture
    arch, (channels, _, cell) = architecture(name), latent_grid(vae)
    wanted, wanted_cell = arch.config["out_channels"], latent_grid(arch.vae)[2] if arch.vae else cell
    if (wanted, wanted_cell) != (channels, cell):
        raise ValueError(
            f"stage '{stage.name}': backbone '{name}' works on latents of {wanted} channels, {wanted_cell} x {wanted_cell} pixels a cell; "
            f"'{vae}' makes {channels} and {cell} x {cell}. Set latents.vae to '{arch.vae}'."
        )
    side = cell * arch.config["patch_size"][1]
    for width, height in latents.video.sizes:
        if width % side or height % side:
            near = "x".join(str(max(1, round(n / side)) * side) for n in (width, height))
            raise ValueError(f"latents.video: {width}x{height} is not in multiples of {side} pixels, as backbone '{name}' wants. Use {near}.")


def _check_kind(latents: LatentSpec, stage: StageSpec) -> None:
    """The latents hold what the stage's kind of backbone starts from, and it has the blocks that are to be trained. Raises ValueError."""
    name = stage.backbone.architecture
    arch = architecture(name, "dit")
    if arch.kind == "i2v" and not latents.first_frame:
        raise ValueError(f"stage '{stage.name}': backbone '{name}' starts from a first frame. Set latents.first_frame=true.")
    if arch.config.get("image_dim"):
        if latents.first_frame_clip is None:
            raise ValueError(f"stage '{stage.name}': backbone '{name}' reads the first frame's CLIP tokens. Set latents.first_frame_clip to a CLIP.")
        width = clip_channels(latents.first_frame_clip.architecture)
        if width != arch.config["image_dim"]:
            raise ValueError(
                f"stage '{stage.name}': backbone '{name}' reads CLIP tokens of width {arch.config['image_dim']}; "
                f"'{latents.first_frame_clip.architecture}' makes {width}. Set latents.first_frame_clip to the one that it was trained with."
            )
    if stage.reference.vace_blocks and arch.kind != "vace":
        raise ValueError(f"stage '{stage.name}': reference.vace_blocks is true, but backbone '{name}' has no VACE blocks. Set it to false.")
    if "vace" in stage.train.trained and arch.kind != "vace":
        raise ValueError(f"stage '{stage.name}': train.trained names 'vace', but backbone '{name}' has no VACE blocks. Name 'all', or leave it out.")


def parse_override(text: str) -> tuple[str, Any]:
    """'stages.0.train.steps=5' as a path and a JSON value; what is not JSON stays a string. Raises ValueError without '='."""
    path, equals, raw = text.partition("=")
    if not equals or not path:
        raise ValueError(f"override '{text}' is not of the form path=value, e.g. stages.verify.train.steps=5")
    try:
        return path, json.loads(raw)
    except json.JSONDecodeError:
        return path, raw


def set_by_path(values: dict[str, Any], path: str, value: Any) -> None:
    """Put `value` at a dotted path of a spec's plain values. Raises ValueError naming the choices."""
    places: list[Any] = [values]
    *parents, last = path.split(".")
    for i, part in enumerate(parents):
        places = [child for place in places for child in _descend(place, part, path, ".".join(parents[:i]))]
    for place in places:
        if isinstance(place, list):
            index = _index(place, last, path)
            for i in index:
                place[i] = value
        elif isinstance(place, dict) and last in place:
            place[last] = value
        else:
            choices = list(place) if isinstance(place, dict) else []
            raise ValueError(f"override '{path}': no field '{last}'. {_choices(last, choices)}")


def _descend(place: Any, part: str, path: str, above: str) -> list[Any]:
    if isinstance(place, list):
        return [place[i] for i in _index(place, part, path)]
    if isinstance(place, dict) and part in place:
        return [place[part]]
    choices = list(place) if isinstance(place, dict) else []
    where = f" under '{above}'" if above else ""
    raise ValueError(f"override '{path}': no field '{part}'{where}. {_choices(part, choices)}")


def _index(place: list[Any], part: str, path: str) -> list[int]:
    if part == "*":
        return list(range(len(place)))
    names = [str(item.get("name", i)) if isinstance(item, dict) else str(i) for i, item in enumerate(place)]
    if part in names:
        return [names.index(part)]
    if part.isdigit() and int(part) < len(place):
        return [int(part)]
    raise ValueError(f"override '{path}': no element '{part}'. {_choices(part, names + ['*'])}")


def _choices(got: str, choices: list[str]) -> str:
    if not choices:
        return "Nothing lies below it."
    near = difflib.get_close_matches(got, choices, 1)
    return (f"Did you mean '{near[0]}'? " if near else "") + f"Valid: {', '.join(choices)}."
