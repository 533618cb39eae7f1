"""Procedural product clips with exact masks: the data of whoever has none. Everything follows from NanoWorldSpec.seed.

A textured ground under a slowly moving camera, and on it one product (a shape of two colours in a pattern) that moves, turns and
changes its size smoothly. A product is shown in two clips. Written as ordinary files in the manifest's format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import product as every
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.nano.shapes import COLOURS, PATTERNS, SHAPES, Array, unit_size
from pvtt_model.specs import NanoWorldSpec

CLIPS_A_PRODUCT = 2
REFERENCES_A_PRODUCT = 2
SUPERSAMPLE = 2
GROUNDS = ("wooden planks", "a tiled floor", "sand", "a woven cloth", "a marble counter")


class Product(NamedTuple):
    shape: str
    colour: str
    accent: str
    pattern: str

    @property
    def product_id(self) -> str:
        return f"{self.colour}-{self.accent}-{self.pattern}-{self.shape}"

    @property
    def words(self) -> str:
        return f"{self.colour} {self.shape} with {self.accent} {self.pattern}"


class Pose(NamedTuple):
    """Of the product, an entry a frame: centre in pixels, pixels a shape unit, turn in radians."""

    x: Array
    y: Array
    scale: Array
    turn: Array


class Clip(NamedTuple):
    frames_TCHW: torch.Tensor  # uint8
    mask_THW: torch.Tensor  # bool, True wherever the product gives any colour to the pixel
    product: Product
    caption: str


def product_of(spec: NanoWorldSpec, index: int) -> Product:
    """The product of clip `index`: no two alike until all 2,160 have been shown."""
    pairs = [(a, b) for a, b in every(COLOURS, COLOURS) if a != b]
    order = np.random.default_rng([spec.seed, 0]).permutation(len(SHAPES) * len(pairs) * len(PATTERNS))
    shape, pair, pattern = np.unravel_index(order[index // CLIPS_A_PRODUCT % len(order)], (len(SHAPES), len(pairs), len(PATTERNS)))
    colour, accent = pairs[int(pair)]
    return Product(list(SHAPES)[int(shape)], colour, accent, list(PATTERNS)[int(pattern)])


def render_clip(spec: NanoWorldSpec, index: int, product: Product | None = None) -> Clip:
    """Clip `index` of the world, the same whatever num_clips is; `product` puts another in its place, all else alike.

    The mask is exact: outside it a frame holds no trace of the product. Values before video compression.
    """
    rng = np.random.default_rng([spec.seed, 1, index])
    product = product or product_of(spec, index)
    ground = GROUNDS[int(rng.integers(len(GROUNDS)))]
    background = _background(spec, rng, ground)
    pose, moves = _motion(spec, rng)
    area, radius = unit_size(product.shape)
    size = np.sqrt(rng.uniform(0.18, 0.24) * spec.width * spec.height / area)
    size = min(size, 0.5 * min(spec.width, spec.height) / radius)
    room = np.maximum(0, np.array([spec.width, spec.height]) / 2 - size * radius)
    pose = Pose(spec.width / 2 + pose.x * room[0], spec.height / 2 + pose.y * room[1], size * pose.scale, pose.turn)
    colour_THWC, cover_THW = _draw(product, pose, spec.height, spec.width)
    cover = cover_THW[..., None]
    frames = background * (1 - cover) + colour_THWC * cover
    caption = f"{'An' if product.colour[0] in 'aeiou' else 'A'} {product.words} {moves} over {ground}."
    return Clip(_to_uint8(frames), torch.from_numpy(cover_THW > 0), product, caption)


def render_reference(spec: NanoWorldSpec, product: Product, view: int) -> torch.Tensor:
    """The product on plain ground, turned as no clip shows it. uint8 3,S,S with S the clip's shorter side, at least 64."""
    side = max(64, min(spec.width, spec.height))
    rng = np.random.default_rng([spec.seed, 2, view, *product.product_id.encode()])
    turn = rng.uniform(0.5, 0.8) * (-1) ** view
    half = np.array([side / 2])
    pose = Pose(half, half, half * rng.uniform(0.82, 0.9) / unit_size(product.shape)[1], np.array([turn]))
    colour, cover = _draw(product, pose, side, side)
    plain = rng.uniform(0.86, 0.94) * np.ones(3)
    return _to_uint8(plain * (1 - cover[..., None]) + colour * cover[..., None])[0]


def _grid(height: int, width: int) -> tuple[Array, Array]:
    """Pixel centres of the supersampled picture, in pixels of the plain one; H*S,1 and 1,W*S."""
    y = (np.arange(height * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    x = (np.arange(width * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    return y[:, None], x[None, :]


def _shrink(x: Array) -> Array:
    """Means over the supersamples: T,H*S,W*S,... to T,H,W,..."""
    t, h, w = x.shape[:3]
    s = SUPERSAMPLE
    return x.reshape(t, h // s, s, w // s, s, *x.shape[3:]).mean(axis=(2, 4))


def _draw(product: Product, pose: Pose, height: int, width: int) -> tuple[Array, Array]:
    """The product's colour T,H,W,3 and its cover T,H,W, both in [0, 1]."""
    y, x = _grid(height, width)
    x = (x[None] - pose.x[:, None, None]) / pose.scale[:, None, None]
    y = (y[None] - pose.y[:, None, None]) / pose.scale[:, None, None]
    cos, sin = np.cos(pose.turn)[:, None, None], np.sin(pose.turn)[:, None, None]
    u, v = cos * x + sin * y, cos * y - sin * x
    distance = SHAPES[product.shape](u, v)
    inside = distance < 0
    paint = np.where(PATTERNS[product.pattern](u, v)[..., None], np.array(COLOURS[product.accent]), np.array(COLOURS[product.colour]))
    light = (0.92 - 0.16 * u - 0.10 * v) * np.clip(0.55 - 4 * distance, 0.55, 1.0)  # lit from the upper left, dark rim
    cover = _shrink(inside.astype(float))
    colour = _shrink(np.clip(paint * light[..., None], 0, 1) * inside[..., None])
    return colour / np.maximum(cover, 1e-9)[..., None], cover


def _motion(spec: NanoWorldSpec, rng: np.random.Generator) -> tuple[Pose, str]:
    """A smooth path: x and y in [-1, 1] of the room there is, scale about 1, turn within 0.35 rad; and what it does, in words."""
    t = np.linspace(0, 1, spec.num_frames)
    way = rng.uniform(0, 2 * np.pi)
    start, length = rng.uniform(-0.35, 0.35, 2), rng.uniform(0.5, 0.65)
    ease = 0.5 - 0.5 * np.cos(np.pi * t)
    x, y = (start[i] + length * d * (ease - 0.5) for i, d in enumerate((np.cos(way), np.sin(way))))
    grow = rng.uniform(0.04, 0.09) * rng.choice((-1, 1))
    spin = rng.uniform(0.08, 0.3) * rng.choice((-1, 1))
    turn = rng.uniform(-0.1, 0.1) + spin * np.sin(np.pi * (t - 0.5))
    side = ("right", "down", "left", "up")[int(np.round(way / (np.pi / 2))) % 4]
    words = f"moves {side} and {'comes closer' if grow > 0 else 'moves away'}"
    return Pose(x, y, 1 + grow * (2 * ease - 1), turn), words


def _background(spec: NanoWorldSpec, rng: np.random.Generator, ground: str) -> Array:
    """T,H,W,3 in [0, 1]: the ground as a camera sees it that drifts by up to a tenth of the frame and zooms by up to 5 %."""
    t = np.linspace(-0.5, 0.5, spec.num_frames)[:, None, None]
    drift = rng.uniform(-0.1, 0.1, 2)
    zoom = 1 + rng.uniform(-0.05, 0.05) * t
    y, x = _grid(spec.height, spec.width)
    short = min(spec.width, spec.height)
    x = ((x[None] - spec.width / 2) * zoom + drift[0] * spec.width * t) / short
    y = ((y[None] - spec.height / 2) * zoom + drift[1] * spec.height * t) / short
    fine, coarse = _noise(rng, x * 16, y * 16), _noise(rng, x * 3, y * 3)
    base = rng.uniform(0.35, 0.7) + rng.uniform(-0.08, 0.08, 3)
    if ground == "wooden planks":
        plank = np.floor(y * 5)
        value = 0.12 * np.sin(plank * 12.9) + 0.16 * _noise(rng, x * 3 + plank, y * 40) - 0.25 * (np.mod(y * 5, 1) < 0.06)
        base = np.array([0.60, 0.42, 0.27]) + rng.uniform(-0.06, 0.06)
    elif ground == "a tiled floor":
        value = 0.08 * coarse + 0.1 * np.mod(np.floor(x * 4) + np.floor(y * 4), 2) - 0.2 * ((np.mod(x * 4, 1) < 0.07) | (np.mod(y * 4, 1) < 0.07))
    elif ground == "sand":
        value = 0.18 * fine + 0.10 * coarse
        base = np.array([0.76, 0.66, 0.48]) + rng.uniform(-0.06, 0.06)
    elif ground == "a woven cloth":
        value = 0.07 * np.sin(x * 60) * np.cos(y * 60) + 0.06 * np.sin(x * 9) + 0.08 * coarse
    else:
        value = 0.22 * np.abs(np.sin(6 * (x + 0.7 * y) + 3 * coarse + fine)) + 0.05 * fine
        base = np.array([0.70, 0.70, 0.72]) + rng.uniform(-0.08, 0.04)
    shade = 1 - 0.15 * (x**2 + y**2)
    return np.clip((base + _shrink(value)[..., None]) * _shrink(shade)[..., None], 0, 1)


def _noise(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Smooth value noise in [-1, 1] with period 64."""
    lattice = rng.uniform(-1, 1, (64, 64))
    x, y = np.broadcast_arrays(x, y)
    ix, iy = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - ix, y - iy
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    x0, x1, y0, y1 = ix % 64, (ix + 1) % 64, iy % 64, (iy + 1) % 64
    top = lattice[y0, x0] * (1 - fx) + lattice[y0, x1] * fx
    return top * (1 - fy) + (lattice[y1, x0] * (1 - fx) + lattice[y1, x1] * fx) * fy


def _to_uint8(frames_THWC: Array) -> torch.Tensor:
    return torch.from_numpy(np.round(frames_THWC * 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def write_world(spec: NanoWorldSpec, folder: str | Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Render the clips into `folder` (videos/, masks/, references/) and give the path of manifest.jsonl, written last.

    `progress(done, total)` is called after each clip. Raises ValueError for odd sizes.
    """
    folder = Path(folder)
    for name in ("videos", "masks", "references"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(spec.num_clips):
        clip = render_clip(spec, index)
        lines.append(json.dumps(_write_clip(spec, folder, index, clip)))
        if progress:
            progress(index + 1, spec.num_clips)
    part = folder / "manifest.jsonl.part"
    part.write_text("\n".join(lines) + "\n")
    os.replace(part, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def _write_clip(spec: NanoWorldSpec, folder: Path, index: int, clip: Clip) -> dict[str, object]:
    name = f"{index:05d}"
    write_mp4(folder / "videos" / f"{name}.mp4", clip.frames_TCHW, spec.fps)
    (folder / "masks" / name).mkdir(exist_ok=True)
    for i, mask in enumerate(clip.mask_THW):
        (folder / "masks" / name / f"{i:05d}.png").write_bytes(png_bytes(mask))
    references = []
    for view in range(REFERENCES_A_PRODUCT):
        references.append(f"references/{clip.product.product_id}-{view}.png")
        (folder / references[-1]).write_bytes(png_bytes(render_reference(spec, clip.product, view)))
    return {
        "video_path": f"videos/{name}.mp4",
        "reference_image": references,
        "mask_path": f"masks/{name}",
        "text_prompt": clip.caption,
        "metadata": {
            "resolution": [spec.width, spec.height],
            "fps": spec.fps,
            "num_frames": spec.num_frames,
            "product_id": clip.product.product_id,
        },
    }
