"""The chain of artifacts of a recipe, each planned before its work. Pure: `pvtt plan` and the flow call the same functions.

    clips -> masks -> latents -> conditions -> cards -> (checkpoints -> edits -> reports -> gates) for each stage -> releases

Each identity holds just the fields that change the output; a name of an input (kind/version) stands for all behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pvtt_model.artifacts import SPLIT_REVISION, Planned, plan_artifact
from pvtt_model.specs import RecipeSpec, StageSpec


def clips_artifact(recipe: RecipeSpec, fingerprint: str, base: str | None = None) -> Planned:
    """The accepted clips of a source.

    fingerprint: an opaque string naming the source's content (a manifest's and its files' hashes, or the nano world's spec).
    base: an earlier clips artifact, whose shards are listed again when data is added. latents.video is in, as too short is refused here; its
    buckets are not: they decide nothing before the latents.
    """
    video = {name: value for name, value in recipe.latents.video.identity().items() if name != "buckets"}
    spec: dict[str, Any] = {"clips": recipe.clips.identity(), "video": video, "fingerprint": fingerprint}
    if recipe.clips.shots == "split":
        spec["split"] = SPLIT_REVISION
    return plan_artifact("clips", spec, () if base is None else (base,))


def masks_artifact(recipe: RecipeSpec, clips_name: str) -> Planned:
    """One mask a clip at the source's size, for the first num_frames of the video spec."""
    return plan_artifact("masks", {"masks": recipe.masks.identity(), "num_frames": recipe.latents.video.num_frames}, (clips_name,))


def latents_artifact(recipe: RecipeSpec, clips_name: str, masks_name: str) -> Planned:
    """VAE latents of the clip and of VACE's halves."""
    return plan_artifact("latents", {"latents": recipe.latents.identity()}, (clips_name, masks_name))


def conditions_artifact(recipe: RecipeSpec, clips_name: str) -> Planned:
    """Text and image embeddings: no mask or latent is behind them, so another VAE re-embeds nothing."""
    return plan_artifact("conditions", {"conditions": recipe.conditions.identity()}, (clips_name,))


def card_artifact(recipe: RecipeSpec, clips_name: str, masks_name: str, latents_name: str, conditions_name: str) -> Planned:
    """The card of what was curated, with what is risky by the recipe's thresholds. Nothing is behind it: it is for people."""
    return plan_artifact("cards", recipe.masks.risky(), (clips_name, masks_name, latents_name, conditions_name))


def checkpoint_artifact(
    recipe: RecipeSpec,
    stage: StageSpec,
    latents_name: str,
    conditions_name: str,
    masks_name: str,
    clips_name: str,
    previous: str | None,
) -> Planned:
    """The trained LoRA and reference adapter of a stage.

    previous: the checkpoint of the stage before, or this stage's released one; an input only where init_from asks for it, so that a stage
    from the base is not trained again because an earlier one changed. Raises ValueError where it is wanted and missing.
    """
    if stage.init_from != "base" and previous is None:
        raise ValueError(f"stage '{stage.name}' starts from the {stage.init_from} checkpoint, and none was given. Pass it, or set init_from='base'.")
    parts = ("backbone", "reference", "lora", "objective", "optim", "parallel", "train", "data")
    spec: dict[str, Any] = {part: getattr(stage, part).identity() for part in parts} | {"init_from": stage.init_from}
    if stage.init_optimizer != "fresh":
        spec["init_optimizer"] = stage.init_optimizer
    before = (previous,) if stage.init_from != "base" and previous is not None else ()
    return plan_artifact("checkpoints", spec, (latents_name, conditions_name, masks_name, clips_name, *before))


def edits_artifact(
    recipe: RecipeSpec,
    stage: StageSpec,
    checkpoint_name: str,
    clips_name: str,
    masks_name: str,
    latents_name: str,
    conditions_name: str,
    partner_name: str | None = None,
) -> Planned:
    """Edited videos of the held-out clips. Size, mask policy, fill and the encoders come with the latents and conditions.

    partner: the checkpoint of the backbone's other expert, where an earlier stage trained it (recipe.partner_of).
    """
    inputs = (checkpoint_name, clips_name, masks_name, latents_name, conditions_name)
    return plan_artifact("edits", {"edit": stage.edit.identity()}, inputs if partner_name is None else (*inputs, partner_name))


def report_artifact(stage: StageSpec, edits_name: str, lost: Sequence[str] = ()) -> Planned:
    """Metrics of the edits, with the extractors' names. lost: files of edits that the store has no more; once they are back it is another report."""
    spec: dict[str, Any] = {"stage": stage.name, "evaluate": stage.evaluate.identity()}
    return plan_artifact("reports", spec | ({"missing": sorted(lost)} if lost else {}), (edits_name,))


def gate_artifact(stage: StageSpec, report_name: str) -> Planned:
    """The judgement of a report by the stage's thresholds."""
    return plan_artifact("gates", {"stage": stage.name, "gate": stage.gate.identity()}, (report_name,))


def release_artifact(recipe: RecipeSpec, last_checkpoint: str, reports: Sequence[str], gates: Sequence[str]) -> Planned:
    """The published folder: the last checkpoint with every stage's report and gate."""
    spec = {"recipe": recipe.name, "stages": [s.name for s in recipe.stages]}
    return plan_artifact("releases", spec, (last_checkpoint, *reports, *gates))
