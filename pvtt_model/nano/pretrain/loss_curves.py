"""Measure the loss curves that ship: the untrained nano bases on held-out clips of the nano world, by noise level.

    python -m pvtt_model.nano.pretrain.loss_curves          writes pvtt_model/nano/loss_curves.json, about a minute

Clips of validation products, encoded and embedded as the recipe `nano` does; noise and levels of fixed seeds; the loop's own loss.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from pvtt_model.backbones.dit import load_transformer
from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.backbones.vae import load_vae
from pvtt_model.curation.latents import pack_mask
from pvtt_model.curation.mask_policy import widen
from pvtt_model.evaluation.loss_by_level import Curve, Level
from pvtt_model.nano.captions import phrase, sentence
from pvtt_model.nano.loss_curves import CURVES, curve_key
from pvtt_model.nano.pretrain.stream import clips, pictures
from pvtt_model.nano.shipped import shipped_folder
from pvtt_model.objectives.level_bins import LevelTally
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import RecipeSpec, StageSpec
from pvtt_model.training.samples import Sample
from pvtt_model.training.step_loss import loss_levels
from pvtt_model.training.teacher import Teacher

CLIPS, PER_BIN, SEED, VIEWS = 128, 256, 31, 2


class Untrained:
    """A teacher as the loop's engine, without DeepSpeed."""

    device = torch.device("cpu")

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher.eval()

    def forward(self, *args: Any) -> Tensor:
        return self.teacher(*args)


def held_out(recipe: RecipeSpec, split: str = "validation", count: int = CLIPS, seed: int = SEED) -> tuple[list[Sample], Tensor]:
    """Samples of the nano world's held-out products as training reads them, and the empty prompt's embedding."""
    vae = load_vae(recipe.latents.vae, shipped_folder(recipe.latents.vae.weights))
    text = load_text_encoder(recipe.conditions.text_encoder, shipped_folder(recipe.conditions.text_encoder.weights))
    image = load_image_encoder(recipe.conditions.image_encoder, shipped_folder(recipe.conditions.image_encoder.weights))
    frames_NCTHW, exact_NTHW, products, scenes = clips(seed, 0, count, recipe.latents.video.num_frames, split)  # type: ignore[arg-type]
    masks = [widen(m, recipe.latents.mask_policy) for m in exact_NTHW]
    kept = vae.encode(frames_NCTHW * (~torch.stack(masks))[:, None].float())
    grey = vae.encode(torch.zeros_like(frames_NCTHW[:1])).expand_as(kept)
    control = torch.cat([kept, grey, torch.stack([pack_mask(m) for m in masks]).float()], 1)
    x0 = vae.encode(frames_NCTHW)
    shown = pictures(seed, 0, products, VIEWS)
    tokens = image.patch_tokens(shown.flatten(0, 1)).unflatten(0, (count, VIEWS)).flatten(1, 2)
    length = recipe.conditions.max_text_tokens
    prompts, words = (text.embed(t, length) for t in ([sentence(phrase(None, s)) for s in scenes], [p.words for p in products]))
    samples = [Sample(x0[i], control[i : i + 1], prompts[i], tokens[i : i + 1], words[i]) for i in range(count)]
    return samples, text.embed([""], length)[0]


def untrained(recipe: RecipeSpec, stage: StageSpec) -> Untrained:
    base = load_transformer(stage.backbone, shipped_folder(stage.backbone.weights), torch.float32)
    image = load_image_encoder(recipe.conditions.image_encoder, shipped_folder(recipe.conditions.image_encoder.weights))
    return Untrained(Teacher(base, stage.reference, stage.lora, image.width, stage.train.seed))


def curve_of(tally: LevelTally, source: str) -> Curve:
    """Means, deviations between samples and counts of a tally."""
    mean = tally.sums / tally.counts
    std = ((tally.squares - tally.counts * mean.square()) / (tally.counts - 1)).clamp(min=0).sqrt()
    return Curve(source, tuple(Level(*values) for values in zip(mean.tolist(), std.tolist(), tally.counts.int().tolist(), strict=True)))


def main() -> None:
    torch.set_num_threads(1)
    recipe = recipe_by_name("nano")
    samples, empty = held_out(recipe)
    curves = {}
    for stage in recipe.stages[:2]:
        engine: Any = untrained(recipe, stage)
        tally = loss_levels(stage, engine, samples, empty, recipe.conditions.max_text_tokens, PER_BIN)
        name = stage.backbone.weights
        source = f"the untrained base {name} on {CLIPS} held-out clips of the nano world, {PER_BIN} draws a bin"
        curves[curve_key(recipe, stage)] = curve_of(tally, source).to_json()
        print(name, [round(v["mean"], 4) for v in curves[curve_key(recipe, stage)]["levels"]], flush=True)
    CURVES.write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    main()
