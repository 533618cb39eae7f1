"""What each part of the teacher earns, in the nano world: the same minutes on the same clips, one part taken away at a time.

    .venv/bin/python benchmarks/nano_ablation.py ARM [--samples N] [--edits N] [--seed N]        one line of JSON

The curriculum's last stages in one process on one core: nano-m, the recipe's own reference, LoRA and objective, clips rendered as the
pretraining's (two mask variants). `full` is what the recipe trains; every other arm changes one thing:

    no_resampler     the mean of all patch tokens and one linear layer to the 16 tokens (plain IP-Adapter), instead of the Perceiver Resampler
    no_lora          LoRA stays at its start, which changes nothing
    no_dropout       neither text nor reference is ever dropped
    precise_masks    the exact silhouette is masked, in training and in the edit
    no_words         words_weight 0: the flow loss alone tells the tokens what to say
    no_vace          the main blocks alone read the reference
    own_space        tokens in a space of their own, K/V afresh (IP-Adapter's start), no words
    ip_adapter       the class token instead of the patch tokens
    dual_path        a second set of tokens of CLIP's beside them
    reference_net    a trained copy of the first half reads the pictures' latents, instead of tokens; no words

Edits are of unseen products, 20 at a time of which 8 share two colours; identity is what the judge of the recipe finds among those 20.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.clip import load_clip
from pvtt_model.backbones.dit import load_transformer
from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.backbones.vae import load_vae
from pvtt_model.curation.latents import pack_mask
from pvtt_model.curation.mask_policy import jittered, widen
from pvtt_model.nano.captions import phrase, sentence
from pvtt_model.nano.pretrain.dit import sample
from pvtt_model.nano.pretrain.optimise import descend, rate_at
from pvtt_model.nano.pretrain.stream import clips, pictures
from pvtt_model.nano.pretrain.vae import psnr
from pvtt_model.nano.pretrain.vision import families
from pvtt_model.nano.products import Product
from pvtt_model.nano.render import Scene, draw_scene, render
from pvtt_model.nano.shipped import FOLDER
from pvtt_model.objectives.noise_levels import sample_sigma
from pvtt_model.objectives.rectified_flow import flow_loss, interpolate, mask_weights
from pvtt_model.objectives.words import words_loss
from pvtt_model.recipes import recipe_by_name
from pvtt_model.reference.features import READS, PictureFeatures, ReferenceFeatures, stack_features
from pvtt_model.specs import MaskPolicy
from pvtt_model.training.samples import pad_rows
from pvtt_model.training.teacher import Teacher

INJECTIONS = ("ip_adapter", "dual_path", "reference_net")
ARMS = ("full", "no_resampler", "no_lora", "no_dropout", "precise_masks", "no_words", "no_vace", "own_space", *INJECTIONS)
CLIPS, BATCH, VIEWS, LR = 1000, 16, 2, 1e-3
RECIPE = recipe_by_name("nano")
STAGE = RECIPE.stages[1]
VIDEO = RECIPE.latents.video


#: Of each product what the injection reads of its pictures, by the field of PictureFeatures.
Features = dict[str, Tensor]


def as_batch(features: Features) -> ReferenceFeatures:
    return stack_features([PictureFeatures(**dict(zip(features, row, strict=True))) for row in zip(*features.values(), strict=True)])


class Linear(nn.Module):
    """The mean of the patch tokens to num_tokens tokens: plain IP-Adapter's image projection."""

    def __init__(self, image_width: int, num_tokens: int, width: int) -> None:
        super().__init__()
        self.num_tokens, self.to_tokens, self.norm = num_tokens, nn.Linear(image_width, num_tokens * width), nn.LayerNorm(image_width)

    def forward(self, tokens_BPC: Tensor, keep_BP: Tensor | None = None) -> Tensor:
        return self.to_tokens(self.norm(tokens_BPC.mean(1))).unflatten(1, (self.num_tokens, -1))


class Bench:
    def __init__(self, arm: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.vae = load_vae(RECIPE.latents.vae, FOLDER / "vae")
        self.text = load_text_encoder(RECIPE.conditions.text_encoder, FOLDER / "text")
        self.dino = load_image_encoder(RECIPE.conditions.image_encoder, FOLDER / "dinov2")
        assert STAGE.evaluate.judge is not None
        self.judge = load_image_encoder(STAGE.evaluate.judge, FOLDER / "judge")
        self.clip = load_clip(STAGE.evaluate.clip, FOLDER / "clip")
        reference, objective = STAGE.reference, STAGE.objective
        if arm == "no_vace":
            reference = reference.model_copy(update={"vace_blocks": False})
        if arm in INJECTIONS:
            reference = reference.model_copy(update={"injection": arm})
        if arm in ("own_space", "reference_net"):
            reference = reference.model_copy(update={"space": "own"})
        if arm in ("no_words", "own_space", "reference_net"):
            objective = objective.model_copy(update={"words_weight": 0.0})
        if arm == "no_dropout":
            objective = objective.model_copy(update={"text_dropout": 0.0, "reference_dropout": 0.0})
        self.objective = objective
        self.policy = MaskPolicy(kind="precise") if arm == "precise_masks" else RECIPE.latents.mask_policy
        base = load_transformer(STAGE.backbone, FOLDER / "nano-m", torch.float32)
        clip_width = architecture(STAGE.evaluate.clip.architecture, "clip").config["vision_cfg"]["width"]
        self.teacher = Teacher(base, reference, STAGE.lora, self.dino.width, seed, clip_width=clip_width)
        self.reads = READS[reference.injection]
        if arm == "no_resampler":
            self.teacher.resampler = self.teacher.injection.parts["resampler"] = Linear(self.dino.width, reference.num_tokens, self.text.width)
        if arm == "no_lora":
            for name, p in self.teacher.named_parameters():
                if ".lora_" in name:
                    p.requires_grad_(False)
        self.empty = self.embed([""])[0]
        self.grey = self.vae.encode(torch.zeros(1, 3, VIDEO.num_frames, 64, 64))

    def embed(self, texts: list[str]) -> Tensor:
        length = RECIPE.conditions.max_text_tokens
        return torch.stack([pad_rows(t, length) for t in self.text.embed(texts, length)])

    def control(self, frames_NCTHW: Tensor, masks: list[Tensor]) -> Tensor:
        kept = self.vae.encode(frames_NCTHW * (~torch.stack(masks))[:, None].float())
        return torch.cat([kept, self.grey.expand_as(kept), torch.stack([pack_mask(m) for m in masks]).float()], 1)

    def references(self, seed: int, step: int, products: list[Product]) -> tuple[Tensor, Features]:
        """Pictures (N, V, 3, H, W), and what the injection reads of them, a row a product."""
        shown = pictures(seed, step, products, VIEWS)
        flat, found = shown.flatten(0, 1), {}
        if self.reads & {"patches_PC", "cls_NC"}:
            found["patches_PC"], found["cls_NC"] = self.dino.reference_tokens(flat)
        if "clip_PC" in self.reads:
            found["clip_PC"] = self.clip.reference_tokens(flat)[0]
        if "latents_NCHW" in self.reads:
            found["latents_NCHW"] = self.vae.encode(2 * flat[:, :, None] - 1).squeeze(2)
        return shown, {
            name: t.unflatten(0, (-1, VIEWS)) if name in ("cls_NC", "latents_NCHW") else t.unflatten(0, (-1, VIEWS)).flatten(1, 2)
            for name, t in found.items()
            if name in self.reads
        }

    def data(self) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {k: [] for k in ("x0", "controls", "text", "words", *self.reads)}
        for step in range(0, CLIPS, 50):
            batch = clips(self.seed + 5, step, 50, VIDEO.num_frames)
            moved = [jittered(m, self.policy, torch.Generator().manual_seed(step + i)) for i, m in enumerate(batch.mask_NTHW)]
            variants = [[widen(m, self.policy) for m in batch.mask_NTHW], moved]
            parts["x0"].append(self.vae.encode(batch.frames_NCTHW))
            parts["controls"].append(torch.stack([self.control(batch.frames_NCTHW, masks) for masks in variants], 1))
            parts["text"].append(self.embed([sentence(phrase(None, s)) for s in batch.scenes]))
            parts["words"].append(self.embed([p.words for p in batch.products]))
            for name, features in self.references(self.seed + 9, step, batch.products)[1].items():
                parts[name].append(features)
        return {k: torch.cat(v) for k, v in parts.items()}

    def train(self, samples: int, data: dict[str, Tensor]) -> None:
        o, teacher = self.objective, self.teacher.train()
        trained = [p for p in teacher.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.99), weight_decay=0.01)
        steps = samples // BATCH
        for step in range(steps):
            g = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            index = torch.randint(CLIPS, (BATCH,), generator=g)
            x0, control = data["x0"][index], data["controls"][index, torch.randint(2, (BATCH,), generator=g)]
            text = data["text"][index].clone()
            text[torch.rand(BATCH, generator=g) < o.text_dropout] = self.empty
            present = (torch.rand(BATCH, generator=g) >= o.reference_dropout).float()
            sigma, noise = sample_sigma(BATCH, o.timestep_sampling, o.shift, g), torch.randn(x0.shape, generator=g)
            features = {name: data[name][index] for name in self.reads}
            predicted = teacher(interpolate(x0, noise, sigma), sigma, text, control, as_batch(features), present)
            loss = flow_loss(predicted, x0, noise, mask_weights(control[:, -64:], o.mask_weight)).mean()
            if o.words_weight:
                assert teacher.resampled_BND is not None
                loss = loss + o.words_weight * words_loss(teacher.resampled_BND, data["words"][index]).mean()
            descend(loss, optimizer, trained, rate_at(step, steps, LR, warmup=20, least=0.1))

    @torch.no_grad()
    def judged(self, edits: int) -> dict[str, float]:
        """Identity among 20 (the right product with its reference, with none; the wrong one with its own) and PSNR in the product."""
        self.teacher.eval()
        rng, found = (
            np.random.default_rng(123),
            {k: [] for k in ("right", "none", "wrong_shown", "right_psnr_db", "none_psnr_db", "right_bg_psnr_db")},
        )
        for step in range(edits // 20):
            products = [*families(rng, 1, 8, "eval"), *families(rng, 12, 1, "eval")]
            scenes = [draw_scene([77, step, i], VIDEO.num_frames) for i in range(20)]
            source, exact = _rendered(products[9:] + products[:9], scenes)
            truth, true_mask = _rendered(products, scenes)
            masks = [widen(m, self.policy) for m in exact]
            control = self.control(source, masks)
            shown, features = self.references(77, step, products)
            gallery = F.normalize(torch.stack([F.normalize(self.judge.embed(v), dim=-1).mean(0) for v in shown]), dim=-1)
            text = self.embed([sentence(phrase(None, s)) for s in scenes])
            answers = {
                "right": self._edited(control, text, features, 1.0, step),
                "none": self._edited(control, text, features, 0.0, step),
                "wrong_shown": self._edited(control, text, {name: t.roll(5, 0) for name, t in features.items()}, 1.0, step),
            }
            for name, video in answers.items():
                seen = F.normalize(sum(F.normalize(self.judge.embed(_crops(video, masks, t)), dim=-1) for t in range(VIDEO.num_frames)), dim=-1)
                wanted = torch.arange(20).roll(5) if name == "wrong_shown" else torch.arange(20)
                found[name].append(float(((seen @ gallery.T).argmax(1) == wanted).float().mean()))
            found["right_psnr_db"].append(psnr(answers["right"], truth, true_mask))
            found["none_psnr_db"].append(psnr(answers["none"], truth, true_mask))
            found["right_bg_psnr_db"].append(psnr(answers["right"], source, ~(torch.stack(masks) | true_mask)))
        return {k: round(sum(v) / len(v), 3) for k, v in found.items()}

    def _edited(self, control: Tensor, text: Tensor, features: Features, present: float, seed: int) -> Tensor:
        reference, edit = as_batch(features), STAGE.edit

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            without = self.teacher(x, sigma, text, control, reference, torch.zeros(len(x)))
            if not present:
                return without
            return without + edit.guidance_reference * (self.teacher(x, sigma, text, control, reference, torch.ones(len(x))) - without)

        return self.vae.decode(sample(velocity, control, self.grey.shape[1], edit.num_steps, seed, edit.shift))


def _rendered(products: list[Product], scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    frames, masks = render(products, scenes, 64, 64)
    return frames.transpose(1, 2).float() / 127.5 - 1, masks


def _crops(video_NCTHW: Tensor, masks: list[Tensor], t: int) -> Tensor:
    cut = []
    for video, mask in zip(video_NCTHW, masks, strict=True):
        rows, columns = mask[t].any(1).nonzero()[:, 0], mask[t].any(0).nonzero()[:, 0]
        box = ((video[None, :, t, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] + 1) / 2).clamp(0, 1)
        cut.append(F.interpolate(box, size=(64, 64), mode="bilinear", antialias=True))
    return torch.cat(cut)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(asked.arm, asked.seed)
    data = bench.data()
    started = time.monotonic()
    bench.train(asked.samples, data)
    record: dict[str, Any] = {"arm": asked.arm, "seed": asked.seed, "samples": asked.samples, "minutes": round((time.monotonic() - started) / 60, 1)}
    print(json.dumps(record | bench.judged(asked.edits)), flush=True)


if __name__ == "__main__":
    main()
