"""The recipes by name, and overrides by dotted path.

`wan2.1-vace-1.3b`, `wan2.1-vace-14b` and `full` are the survey's three stages (10.1) with its hyper-parameters (10.2 to
10.5). Where the survey is silent (number of steps, thresholds of what is measured, learning rate of the last stage) the
value is ours, and said so beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from pvtt_model.nano.shipped import shipped
from pvtt_model.overrides import set_by_path, valid_choices
from pvtt_model.recipe_checks import check_roles
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
    # Ours: attentions kept cost 9 GiB of the 80 and save 15 % of the FLOPs. At 14B they cost 38.
    parallel=ParallelSpec(num_workers=4, grad_accum=8, zero_stage=2, checkpointing="keep_attention"),
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
        raise ValueError(f"no recipe '{name}'. {valid_choices(name, list(RECIPES))}")
    values = RECIPES[name].model_dump(mode="json")
    for path, value in (overrides or {}).items():
        set_by_path(values, path, value)
    try:
        recipe = RecipeSpec.model_validate(values)
        check_roles(recipe)
        return recipe
    except ValidationError as error:
        found = [e for e in error.errors() if e["type"] != "too_short"] or error.errors()  # a bad stage also counts as none
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {_short(e)})" for e in found)
        raise ValueError(f"recipe '{name}' with overrides of {sorted(overrides or {})} is not valid: {lines}") from None


def _short(error: Any) -> str:
    """The refused value, short; where weights lie is not repeated, as it may hold a credential."""
    text = "..." if error["loc"] and error["loc"][-1] == "weights" else repr(error["input"])
    return text if len(text) <= 80 else text[:77] + "..."
