"""The nano image encoders: a DINOv2-shaped ViT that conditions the adapter, and a ConvNeXt that judges. Trained apart, by other seeds.

Both learn from pairs of views of one product (reference picture, frame of a clip) among look-alikes of the same colours: contrastive
(arXiv:2004.11362), and to name every attribute. The ViT's patch tokens also give back their own pixels, so that they keep what a
picture looks like and not only what it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.image import build_image_model
from pvtt_model.nano.pretrain.optimise import Progress, descend, rate_at
from pvtt_model.nano.pretrain.stream import SIDE, clips, pictures
from pvtt_model.nano.products import INKS, STRETCH, Product, Split, draw_product
from pvtt_model.nano.shapes import COLOURS, GLYPHS, PATTERNS, SHAPES

FAMILY, FAMILIES = 4, 8
TEMPERATURE = 0.1
ATTRIBUTES: tuple[list[str], ...] = tuple(list(t) for t in (SHAPES, STRETCH, COLOURS, COLOURS, PATTERNS, INKS, GLYPHS))
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


class Views(NamedTuple):
    first_NCHW: Tensor  # [0, 1]
    second_NCHW: Tensor
    labels_NA: Tensor


def families(rng: np.random.Generator, count: int, size: int, split: Split) -> list[Product]:
    """`count` groups of `size` distinct products of the same two colours, group after group."""
    out: list[Product] = []
    colours = list(COLOURS)
    for _ in range(count):
        pair = (colours[0], colours[0])
        while pair[0] == pair[1] or set(pair) == set(INKS):
            pair = (colours[int(rng.integers(len(colours)))], colours[int(rng.integers(len(colours)))])
        group: list[Product] = []
        while len(group) < size:
            product = draw_product(rng, split, pair)
            if product not in group:
                group.append(product)
        out += group
    return out


def labels(products: list[Product]) -> Tensor:
    return torch.tensor([[names.index(value) for names, value in zip(ATTRIBUTES, p, strict=True)] for p in products])


def square_crops(frames_NCTHW: Tensor, mask_NTHW: Tensor, rng: np.random.Generator) -> Tensor:
    """One frame a clip, [0, 1], cut to a square about the product with a margin and a shift of a few pixels, scaled to 64 pixels."""
    out = []
    for frames, masks in zip(frames_NCTHW, mask_NTHW, strict=True):
        t = int(rng.integers(len(masks)))
        rows, columns = masks[t].any(1).nonzero()[:, 0], masks[t].any(0).nonzero()[:, 0]
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        side = max(bottom - top, right - left) + int(rng.integers(0, 9))
        cy, cx = (top + bottom) / 2 + rng.uniform(-2, 2), (left + right) / 2 + rng.uniform(-2, 2)
        y, x = max(0, round(cy - side / 2)), max(0, round(cx - side / 2))
        cut = frames[None, :, t, y : y + side, x : x + side]
        out.append(F.interpolate(cut, size=(SIDE, SIDE), mode="bilinear", antialias=True))
    return ((torch.cat(out) + 1) / 2).clamp(0, 1)


def views(seed: int, step: int, split: Split = "train", count: int = FAMILIES, size: int = FAMILY) -> Views:
    """A reference picture of each product, and for half of them another one, for the others a crop of a clip."""
    rng = np.random.default_rng([seed, 21, step])
    products = families(rng, count, size, split)
    both = pictures(seed, step, products, 2)
    second = both[:, 1].clone()
    chosen = torch.from_numpy(rng.permutation(len(products))[: len(products) * 3 // 4])
    batch = clips(seed, step, len(chosen), 1, split, [products[i] for i in chosen])
    second[chosen] = square_crops(batch.frames_NCTHW, batch.mask_NTHW, rng)
    return Views(both[:, 0], spoilt(second, rng), labels(products))


def spoilt(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the pictures blurred or made noisy, as what a model draws is."""
    out = images.clone()
    for i in range(len(images)):
        kind = rng.uniform()
        if kind < 0.3:
            small = int(rng.integers(24, 56))
            out[i] = F.interpolate(
                F.interpolate(images[i : i + 1], size=(small, small), mode="bilinear", antialias=True), size=images.shape[-2:], mode="bilinear"
            )[0]
        elif kind < 0.5:
            out[i] = (images[i] + torch.from_numpy(rng.normal(0, rng.uniform(0.01, 0.06), images[i].shape).astype(np.float32))).clamp(0, 1)
    return out


class _Heads(nn.Module):
    """What is thrown away after training: names of the attributes, pixels of the patches."""

    def __init__(self, width: int, patch: int | None) -> None:
        super().__init__()
        self.names = nn.ModuleList(nn.Linear(width, len(names)) for names in ATTRIBUTES)
        self.pixels = nn.Linear(width, 3 * patch * patch) if patch else None


def train_vision(model: Any, patch: int | None, seed: int, steps: int, lr: float, progress: Progress) -> None:
    """Train `model` (timm, no head) in place. patch: side of its patches, or None for a ConvNet."""
    torch.manual_seed(seed)
    heads = _Heads(model.num_features, patch)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    model.train()
    for step in range(steps):
        batch = views(seed, step)
        images = torch.cat([batch.first_NCHW, batch.second_NCHW])
        with torch.autocast("cpu", torch.bfloat16):
            tokens, pooled = _features(model, (images - MEAN) / STD, patch)
        tokens, pooled = None if tokens is None else tokens.float(), pooled.float()
        named = batch.labels_NA.repeat(2, 1)
        answers = [pooled] if tokens is None else [pooled, tokens.mean(1)]
        loss = sum(F.cross_entropy(head(a), named[:, i]) for a in answers for i, head in enumerate(heads.names)) / len(answers)
        first, second = F.normalize(pooled, dim=-1).chunk(2)
        similar = first @ second.T / TEMPERATURE
        target = torch.arange(len(first))
        contrast = (F.cross_entropy(similar, target) + F.cross_entropy(similar.T, target)) / 2
        loss = loss + contrast
        if tokens is not None and heads.pixels is not None and patch:
            wanted = F.pixel_unshuffle(images, patch).flatten(2).transpose(1, 2)
            loss = loss + 2 * (heads.pixels(tokens) - wanted).abs().mean()
        descend(loss, optimizer, parameters, rate_at(step, steps, lr))
        if step % 100 == 0 or step == steps - 1:
            progress(step, {"loss": loss.item(), "contrast": contrast.item(), "nearest": (similar.argmax(1) == target).float().mean().item()})
    model.eval()


def _features(model: Any, images: Tensor, patch: int | None) -> tuple[Tensor | None, Tensor]:
    features = model.forward_features(images)
    if patch is None:
        return None, model.forward_head(features, pre_logits=True)
    return features[:, model.num_prefix_tokens :], features[:, 0]


def train_image_encoder(name: str, seed: int, steps: int, lr: float, folder: Path, progress: Progress, **build: Any) -> dict[str, float]:
    """Train nano-dinov2 or nano-judge and save model.safetensors. Score: unseen products found among 20. build: for build_image_model."""
    config = architecture(name).config
    torch.manual_seed(seed)
    model = build_image_model(config, **build)
    patch = None if "dims" in config else int(config["patch"])
    train_vision(model, patch, seed, steps, lr, progress)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")

    def pooled(images: Tensor) -> Tensor:
        return _features(model, (images - MEAN) / STD, patch)[1]

    return retrieval(pooled, seed) | probe(pooled, seed)


@torch.no_grad()
def probe(embed: Callable[[Tensor], Tensor], seed: int, fitted: int = 1500, asked: int = 400, ridge: float = 10.0) -> dict[str, float]:
    """Share of unseen products of which a linear probe on two pictures' mean features names every attribute, and the worst attribute's share.

    Retrieval among 20 hides what an encoder does not know: at 0.90 this was 0.06, and no adapter could have drawn from it.
    """
    rng = np.random.default_rng([seed, 32])
    known, unseen = [draw_product(rng, "train") for _ in range(fitted)], [draw_product(rng, "eval") for _ in range(asked)]

    def features(products: list[Product], start: int) -> Tensor:
        parts = [pictures(seed + 3, start + i, products[i : i + 100], 2) for i in range(0, len(products), 100)]
        return torch.cat([embed(p.flatten(0, 1)).unflatten(0, (-1, 2)).mean(1) for p in parts])

    x, y = features(known, 0), features(unseen, 1_000_000)
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, y = (F.pad((f - mean) / std, (0, 1), value=1.0) for f in (x, y))
    known_NA, unseen_NA = labels(known), labels(unseen)
    right = torch.ones(asked, dtype=torch.bool)
    worst = 1.0
    for i, names in enumerate(ATTRIBUTES):
        weights = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1]), x.T @ F.one_hot(known_NA[:, i], len(names)).float())
        hit = (y @ weights).argmax(1) == unseen_NA[:, i]
        right &= hit
        worst = min(worst, hit.float().mean().item())
    return {"all_attributes": right.float().mean().item(), "worst_attribute": worst}


@torch.no_grad()
def retrieval(embed: Callable[[Tensor], Tensor], seed: int, queries: int = 240) -> dict[str, float]:
    """Share of unseen products found among 20 by a crop of one frame: all 20 of the eval split, 8 of them (itself counted) of its two colours."""
    rng = np.random.default_rng([seed, 31])
    right = 0
    for step in range(queries // 20):
        products = [*families(rng, 1, 8, "eval"), *families(rng, 12, 1, "eval")]
        gallery = F.normalize(torch.stack([F.normalize(embed(v), dim=-1).mean(0) for v in pictures(seed, step, products, 2)]), dim=-1)
        batch = clips(seed, step, 20, 1, "eval", products)
        found = F.normalize(embed(square_crops(batch.frames_NCTHW, batch.mask_NTHW, rng)), dim=-1) @ gallery.T
        right += int((found.argmax(1) == torch.arange(20)).sum())
    return {"top1_of_20": right / (queries // 20 * 20), "queries": queries // 20 * 20}
