"""Procedural product clips with exact masks and, for the held-out ones, the right edit: the data of whoever has none.

A textured ground under a moving camera, and on it one product that moves, turns, and changes its size and light (render.py). Three
splits, and no product is in two (products.py). Training and validation clips show a product each. Held-out products come in families
of the same two colours, which only shape, pattern or glyph tell apart; beside a held-out clip lies its truth: the same scene with
the product of another. Written as ordinary files in the manifest's format; everything follows from NanoWorldSpec.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.nano.captions import phrase, sentence
from pvtt_model.nano.products import Product, Split, draw_product
from pvtt_model.nano.render import Scene, draw_scene, reference_scene, render
from pvtt_model.nano.shapes import COLOURS
from pvtt_model.specs import NanoWorldSpec

#: First number of a split's clips: a clip is the same however many there are of its own and of the other splits.
FIRST: dict[Split, int] = {"train": 0, "validation": 1 << 30, "eval": 1 << 31}
BATCH_PIXELS = 1 << 19  # rendered at once: larger batches leave the cache
MOST_DRAWS = 2000  # for a product not shown yet


class Shot(NamedTuple):
    """What clip `index` of the world is, before it is rendered."""

    split: Split
    number: int  # its product and its scene are drawn from
    product: Product
    truth: Product | None  # the product of its ground-truth edit


class Clip(NamedTuple):
    frames_TCHW: torch.Tensor  # uint8
    mask_THW: torch.Tensor  # bool, True wherever the product gives any colour to the pixel
    product: Product
    caption: str


@lru_cache(maxsize=8)
def shots(spec: NanoWorldSpec) -> tuple[Shot, ...]:
    """Every clip of the world, in the manifest's order: train, validation, eval. Raises ValueError where the eval products run out."""
    held_out = _families(spec)
    # Moved on by the size of a family, so that no truth is of its clip's own family, where there is another of that size.
    step = min(spec.look_alikes, spec.num_eval - 1)
    truths = held_out[step:] + held_out[:step]
    clips = [Shot("train", FIRST["train"] + i, p, None) for i, p in enumerate(_drawn(spec, "train", spec.num_clips))]
    clips += [Shot("validation", FIRST["validation"] + i, p, None) for i, p in enumerate(_drawn(spec, "validation", spec.num_validation))]
    return (*clips, *(Shot("eval", FIRST["eval"] + i, p, t) for i, (p, t) in enumerate(zip(held_out, truths, strict=True))))


def _drawn(spec: NanoWorldSpec, split: Split, count: int) -> list[Product]:
    """A product a clip, none twice until nearly all have been shown."""
    seen: set[Product] = set()
    products = []
    for i in range(count):
        rng = np.random.default_rng([spec.seed, 0, FIRST[split] + i])
        found = (draw_product(rng, split) for _ in range(MOST_DRAWS))
        product = next((p for p in found if p not in seen), None) or draw_product(rng, split)
        seen.add(product)
        products.append(product)
    return products


def _families(spec: NanoWorldSpec) -> list[Product]:
    """The eval products, `look_alikes` of one pair of colours after the other, all distinct. White with black is left out: no ink shows on it."""
    pairs = [(a, b) for a in COLOURS for b in COLOURS if a != b and {a, b} != {"white", "black"}]
    order = np.random.default_rng([spec.seed, 3]).permutation(len(pairs))
    products: list[Product] = []
    seen: set[Product] = set()
    for i in range(spec.num_eval):
        rng = np.random.default_rng([spec.seed, 0, FIRST["eval"] + i])
        pair = pairs[int(order[i // spec.look_alikes % len(pairs)])]
        found = (draw_product(rng, "eval", pair) for _ in range(MOST_DRAWS))
        product = next((p for p in found if p not in seen), None)
        if product is None:
            raise ValueError(
                f"there are less than {i % spec.look_alikes + 1} eval products in {pair[0]} and {pair[1]}. Set world.look_alikes to 60 or less "
                "and world.num_eval to 5,000 or less."
            )
        seen.add(product)
        products.append(product)
    return products


def scene_of(spec: NanoWorldSpec, shot: Shot) -> Scene:
    """All of the shot but its product."""
    return draw_scene([spec.seed, 1, shot.number], spec.num_frames)


def caption(product: Product, scene: Scene) -> str:
    """A sentence that holds the product's words verbatim."""
    return sentence(phrase(product, scene))


def render_clip(spec: NanoWorldSpec, index: int, product: Product | None = None) -> Clip:
    """Clip `index` of the world; `product` puts another in its place, all else alike.

    The mask is exact: outside it a frame holds no trace of the product. Values before video compression.
    """
    shot = shots(spec)[index]
    scene = scene_of(spec, shot)
    product = product or shot.product
    frames, masks = render([product], [scene], spec.height, spec.width)
    return Clip(frames[0], masks[0], product, caption(product, scene))


def render_reference(spec: NanoWorldSpec, product: Product, view: int) -> torch.Tensor:
    """The product on plain ground, posed as no clip shows it. uint8 3,S,S with S the clip's shorter side, at least 64."""
    return _references(spec, [(product, view)])[0]


def _references(spec: NanoWorldSpec, views: Sequence[tuple[Product, int]]) -> torch.Tensor:
    side = max(64, min(spec.width, spec.height))
    scenes = [reference_scene([spec.seed, 2, view, _number(product)]) for product, view in views]
    return render([product for product, _ in views], scenes, side, side)[0][:, 0]


def _number(product: Product) -> int:
    return int.from_bytes(hashlib.sha256(product.product_id.encode()).digest()[:8], "big")


def write_world(spec: NanoWorldSpec, folder: str | Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Render the clips into `folder` (videos/, masks/, references/, truths/, truth_masks/) and give the path of manifest.jsonl, written last.

    `progress(done, total)` is called after each clip. Raises ValueError for odd sizes, and where the eval products run out.
    """
    folder = Path(folder)
    for name in ("videos", "masks", "references", "truths", "truth_masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    world = shots(spec)
    lines: list[str] = []
    waiting: list[Future[dict[str, Any]]] = []
    size = max(1, BATCH_PIXELS // (spec.num_frames * spec.height * spec.width))
    with ThreadPoolExecutor(1) as pool:  # one writes while the next are rendered; more of them only wait for one another
        for batch in [*_batches(world, size), ()]:
            begun = _write_batch(spec, folder, batch, pool) if batch else []
            for written in waiting:
                lines.append(json.dumps(written.result()))
                if progress:
                    progress(len(lines), len(world))
            waiting = begun
    part = folder / "manifest.jsonl.part"
    part.write_text("\n".join(lines) + "\n")
    os.replace(part, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def _batches(world: Sequence[Shot], size: int) -> Iterator[Sequence[Shot]]:
    for split in FIRST:
        of_split = [shot for shot in world if shot.split == split]
        yield from (of_split[i : i + size] for i in range(0, len(of_split), size))


def _write_batch(spec: NanoWorldSpec, folder: Path, batch: Sequence[Shot], pool: ThreadPoolExecutor) -> list[Future[dict[str, Any]]]:
    """The shots rendered here and written by the pool's threads; a manifest's line each."""
    scenes = [scene_of(spec, shot) for shot in batch]
    shown = render([shot.product for shot in batch], scenes, spec.height, spec.width)
    truths = [(shot.truth, scene) for shot, scene in zip(batch, scenes, strict=True) if shot.truth]
    edited = render([p for p, _ in truths], [s for _, s in truths], spec.height, spec.width) if truths else shown
    pictures = _references(spec, [(shot.product, view) for shot in batch for view in range(spec.references)]).unflatten(0, (len(batch), -1))
    return [
        pool.submit(_write_clip, spec, folder, shot, scene, (shown[0][i], shown[1][i]), (edited[0][i], edited[1][i]), pictures[i])
        for i, (shot, scene) in enumerate(zip(batch, scenes, strict=True))
    ]


Filmed = tuple[torch.Tensor, torch.Tensor]  # frames T,3,H,W and mask T,H,W


def _write_clip(spec: NanoWorldSpec, folder: Path, shot: Shot, scene: Scene, shown: Filmed, edited: Filmed, pictures: torch.Tensor) -> dict[str, Any]:
    name = f"{shot.split}-{shot.number - FIRST[shot.split]:05d}"
    references = [f"references/{shot.product.product_id}-{view}.png" for view in range(spec.references)]
    for place, picture in zip(references, pictures, strict=True):
        (folder / place).write_bytes(png_bytes(picture))
    metadata: dict[str, Any] = {
        "resolution": [spec.width, spec.height],
        "fps": spec.fps,
        "num_frames": spec.num_frames,
        "product_id": shot.product.product_id,
        "product_words": shot.product.words,
        "look_alikes": shot.product.look_alikes,
        "split": shot.split,
    }
    video, mask = _write_video(spec, folder, ("videos", "masks"), name, shown)
    if shot.truth:
        true_video, true_mask = _write_video(spec, folder, ("truths", "truth_masks"), name, edited)
        metadata["truth"] = {"product_id": shot.truth.product_id, "video_path": true_video, "mask_path": true_mask}
    return {
        "video_path": video,
        "reference_image": references,
        "mask_path": mask,
        "text_prompt": caption(shot.product, scene),
        "metadata": metadata,
    }


def _write_video(spec: NanoWorldSpec, folder: Path, kinds: tuple[str, str], name: str, filmed: Filmed) -> tuple[str, str]:
    """Paths of the mp4 and of the folder of masks. 4:4:4, as halved colour planes cost pictures this small 13 dB."""
    video, mask = f"{kinds[0]}/{name}.mp4", f"{kinds[1]}/{name}"
    write_mp4(folder / video, filmed[0], spec.fps, preset="veryfast", chroma="444")
    (folder / mask).mkdir(exist_ok=True)
    for i, frame in enumerate(filmed[1]):
        (folder / mask / f"{i:05d}.png").write_bytes(png_bytes(frame))
    return video, mask
