"""What a recipe would run: artifacts, steps, parameters, memory, FLOPs, bytes. No weights, no GPU, no store of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pvtt_model import chain
from pvtt_model.artifacts import Planned
from pvtt_model.plan_flops import Flops, first_frame_tokens, not_counted, sample_flops, video_tokens
from pvtt_model.plan_memory import DataBytes, Memory, clip_width, data_bytes, gpu_memory, picture_tokens
from pvtt_model.plan_parameters import Parameters, count_parameters
from pvtt_model.specs import RecipeSpec, StageSpec

GIB = 2**30


@dataclass(frozen=True)
class PlannedArtifact:
    name: str
    stage: str | None
    exists: bool | None  # None: no store was asked


@dataclass(frozen=True)
class StagePlan:
    """One stage in figures. FLOPs are of one sample; a step is global_batch samples over all workers."""

    name: str
    backbone: str
    init_from: str
    steps: int
    global_batch: int
    workers: int
    micro_batch: int
    grad_accum: int
    zero_stage: int  # parallel.sharding: of FSDP2 3, of DDP 0
    strategy: str
    checkpointing: bool
    precision: str
    gpu_memory_gib: float
    accelerator: str
    low_rank: str
    lr: float
    min_pairs: int
    max_pairs: int | None
    parameters: Parameters
    memory: Memory
    flops: Flops
    not_counted: tuple[str, ...]  # in flops, and in memory's activations
    gate: tuple[str, ...]

    @property
    def step_flops(self) -> int:
        return self.flops.total * self.global_batch

    @property
    def epochs(self) -> tuple[float | None, float]:
        """(over max_pairs, over min_pairs): steps x global batch / pairs."""
        seen = self.steps * self.global_batch
        return (seen / self.max_pairs if self.max_pairs else None), seen / self.min_pairs


@dataclass(frozen=True)
class Plan:
    recipe: str
    artifacts: tuple[PlannedArtifact, ...]
    tokens: int  # of a sample of the largest bucket; so are data's bytes, and the stages' memory and FLOPs
    data: DataBytes
    stages: tuple[StagePlan, ...]
    sizes: tuple[tuple[int, int], ...]  # (width, height) of the buckets

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the derived figures included; bytes, FLOPs and counts are whole numbers."""
        values = asdict(self)
        values["data"]["total"] = self.data.total
        for stage, out in zip(self.stages, values["stages"], strict=True):
            out["parameters"] |= {"frozen": stage.parameters.frozen, "trained": stage.parameters.trained}
            out["memory"]["total"] = stage.memory.total
            out["flops"] |= {"forward": stage.flops.forward, "recompute": stage.flops.recompute, "total": stage.flops.total}
            out |= {"step_flops": stage.step_flops, "samples": stage.steps * stage.global_batch, "epochs": list(stage.epochs)}
            out["data_bytes"] = [self.data.total * stage.min_pairs, self.data.total * stage.max_pairs if stage.max_pairs else None]
        return values


def plan_recipe(recipe: RecipeSpec, fingerprint: str, exists: Callable[[str], bool] | None = None) -> Plan:
    """The whole plan. fingerprint names the source's content (see chain.clips_artifact); exists(name) asks a store for kind/version."""
    artifacts = tuple(PlannedArtifact(p.name, stage, exists(p.name) if exists else None) for stage, p in planned_chain(recipe, fingerprint))
    tokens = video_tokens(recipe.latents)
    stages = tuple(_stage(recipe, s, tokens) for s in recipe.stages)
    return Plan(recipe.name, artifacts, tokens, data_bytes(recipe), stages, recipe.latents.video.sizes)


def planned_chain(recipe: RecipeSpec, fingerprint: str) -> list[tuple[str | None, Planned]]:
    """Every artifact of the recipe in the order it is made, with the stage it is of."""
    clips = chain.clips_artifact(recipe, fingerprint)
    masks = chain.masks_artifact(recipe, clips.name)
    latents = chain.latents_artifact(recipe, clips.name, masks.name)
    conditions = chain.conditions_artifact(recipe, clips.name)
    card = chain.card_artifact(recipe, clips.name, masks.name, latents.name, conditions.name)
    planned: list[tuple[str | None, Planned]] = [(None, p) for p in (clips, masks, latents, conditions, card)]
    previous: str | None = None
    checkpoints: dict[str, str] = {}
    reports, gates = [], []
    for stage in recipe.stages:
        checkpoint = chain.checkpoint_artifact(recipe, stage, latents.name, conditions.name, masks.name, clips.name, previous)
        checkpoints[stage.name] = checkpoint.name
        partner = recipe.partner_of(stage)
        edits = chain.edits_artifact(
            recipe, stage, checkpoint.name, clips.name, masks.name, latents.name, conditions.name, checkpoints[partner.name] if partner else None
        )
        report = chain.report_artifact(stage, edits.name)
        gate = chain.gate_artifact(stage, report.name)
        planned += [(stage.name, p) for p in (checkpoint, edits, report, gate)]
        previous = checkpoint.name
        reports.append(report.name)
        gates.append(gate.name)
    assert previous is not None
    return [*planned, (None, chain.release_artifact(recipe, previous, reports, gates))]


def _stage(recipe: RecipeSpec, stage: StageSpec, tokens: int) -> StagePlan:
    picture = picture_tokens(recipe)
    parameters = count_parameters(stage, picture.image_width, clip_width(recipe))
    parallel = stage.parallel.as_run()
    return StagePlan(
        name=stage.name,
        backbone=stage.backbone.architecture + (f" ({stage.backbone.expert} expert)" if stage.backbone.expert else ""),
        init_from=stage.init_from,
        steps=stage.train.steps,
        global_batch=parallel.global_batch,
        workers=parallel.num_workers,
        micro_batch=parallel.micro_batch,
        grad_accum=parallel.grad_accum,
        zero_stage=parallel.sharding,
        strategy=parallel.label(),
        checkpointing=parallel.gradient_checkpointing,
        precision=parallel.precision,
        gpu_memory_gib=parallel.gpu_memory_gib,
        accelerator=parallel.accelerator,
        low_rank=stage.lora.label(),
        lr=stage.optim.lr,
        min_pairs=stage.data.min_pairs,
        max_pairs=stage.data.max_pairs,
        parameters=parameters,
        memory=gpu_memory(stage, parameters, tokens),
        flops=sample_flops(stage, tokens, recipe.conditions.max_text_tokens, picture, first_frame_tokens(recipe)),
        not_counted=not_counted(stage),
        gate=tuple(f"{t.metric} {t.op} {t.value:g}" for t in stage.gate.thresholds),
    )
