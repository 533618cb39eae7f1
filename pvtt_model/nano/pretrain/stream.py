"""Endless clips for pretraining, rendered as they are asked for: never twice the same, and only products of the asked split.

Everything is a function of (seed, step), so a training is repeatable; scenes are none of those that `write_world` writes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from pvtt_model.nano.products import Product, Split, draw_product
from pvtt_model.nano.render import Scene, draw_scene, reference_scene, render

SIDE = 64


class Clips(NamedTuple):
    frames_NCTHW: Tensor  # float, [-1, 1]
    mask_NTHW: Tensor  # bool
    products: list[Product]
    scenes: list[Scene]


def clips(seed: int, step: int, size: int, num_frames: int, split: Split = "train", products: list[Product] | None = None) -> Clips:
    """`size` clips of step `step`; `products` puts these in."""
    products, scenes = products or _products(seed, step, size, split), _scenes(seed, step, size, num_frames)
    frames, mask = render(products, scenes, SIDE, SIDE)
    return Clips(frames.transpose(1, 2).float() / 127.5 - 1, mask, products, scenes)


def contents(seed: int, step: int, size: int, num_frames: int, split: Split = "train") -> tuple[list[Product], list[Scene]]:
    """What `clips` of the same arguments show, without the pictures."""
    return _products(seed, step, size, split), _scenes(seed, step, size, num_frames)


def _products(seed: int, step: int, size: int, split: Split) -> list[Product]:
    rng = np.random.default_rng([seed, 11, step])
    return [draw_product(rng, split) for _ in range(size)]


def _scenes(seed: int, step: int, size: int, num_frames: int) -> list[Scene]:
    return [draw_scene([seed, 12, step, i], num_frames) for i in range(size)]


def pictures(seed: int, step: int, products: list[Product], views: int) -> Tensor:
    """Reference pictures (N, views, 3, 64, 64) in [0, 1] of the products."""
    scenes = [reference_scene([seed, 13, step, i]) for i in range(len(products) * views)]
    frames, _ = render([p for p in products for _ in range(views)], scenes, SIDE, SIDE)
    return (frames[:, 0].float() / 255).unflatten(0, (len(products), views))
