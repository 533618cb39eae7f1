"""The nano CLIP: pictures of products and their words into one space. arXiv:2103.00020."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pvtt_model.backbones.architectures import architecture
from pvtt_model.nano.captions import phrase
from pvtt_model.nano.pretrain.optimise import Progress, descend, rate_at
from pvtt_model.nano.pretrain.stream import clips, pictures
from pvtt_model.nano.pretrain.vision import families, spoilt, square_crops
from pvtt_model.nano.products import Split

LR, FAMILY, FAMILIES = 1e-3, 4, 12


def train_clip(seed: int, steps: int, folder: Path, progress: Progress) -> dict[str, float]:
    """Train and save as open_clip's safetensors, in float16. Score: unseen products whose words are found among 20 by a picture."""
    torch.manual_seed(seed)
    config = architecture("nano-openclip").config
    model: Any = open_clip.CLIP(**config)
    tokenize = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.05)
    for step in range(steps):
        images, texts = _pairs(seed, step, "train", FAMILIES, FAMILY)
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.encode_image(_normal(images))
        said = model.encode_text(tokenize(texts))
        similar = F.normalize(seen.float(), dim=-1) @ F.normalize(said, dim=-1).T * model.logit_scale.exp().clamp(max=100)
        target = torch.arange(len(texts))
        loss = (F.cross_entropy(similar, target) + F.cross_entropy(similar.T, target)) / 2
        descend(loss, optimizer, model.parameters(), rate_at(step, steps, LR))
        if step % 100 == 0 or step == steps - 1:
            progress(step, {"loss": loss.item(), "found": (similar.argmax(1) == target).float().mean().item()})
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    right = 0
    with torch.no_grad():
        for step in range(10):
            images, texts = _pairs(seed + 1, step, "eval", 5, 4)
            similar = F.normalize(model.encode_image(_normal(images)), dim=-1) @ F.normalize(model.encode_text(tokenize(texts)), dim=-1).T
            right += int((similar.argmax(1) == torch.arange(20)).sum())
    return {"top1_of_20": right / 200}


def _normal(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (images - mean) / std


def _pairs(seed: int, step: int, split: Split, count: int, size: int) -> tuple[torch.Tensor, list[str]]:
    """A third reference pictures, a third crops, a third whole frames; each with words: the product's, or the clip's whole caption."""
    rng = np.random.default_rng([seed, 51, step])
    products = families(rng, count, size, split)
    batch = clips(seed, step, len(products), 1, split, products)
    kinds = torch.stack(
        [pictures(seed, step, products, 1)[:, 0], square_crops(batch.frames_NCTHW, batch.mask_NTHW, rng), (batch.frames_NCTHW[:, :, 0] + 1) / 2]
    )
    chosen = torch.from_numpy(rng.integers(0, 3, len(products)))
    images = kinds[chosen, torch.arange(len(products))].clamp(0, 1)
    whole = [f"a {p.words}" if k < 2 else phrase(p, s) for p, s, k in zip(products, batch.scenes, chosen.tolist(), strict=True)]
    return spoilt(images, rng), whole
