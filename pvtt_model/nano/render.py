"""The renderer: many clips at once, elementwise torch, anti-aliased by distances. Everything of a scene is drawn from its seed.

Shape suffixes: N clips, T frames, H and W pixels, C colours. Lengths are in half short sides of the frame, so 2 is its short side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pvtt_model.nano.products import STRETCH, Product
from pvtt_model.nano.shapes import COLOURS, GLYPH_DEFAULT, GLYPH_PLACE, GLYPHS, PATTERNS, SHAPES, unit_size

GROUNDS = ("wooden planks", "a tiled floor", "sand", "a woven cloth", "a marble counter")
WOOD, TILES, SAND, CLOTH, MARBLE = range(5)
OCCLUDED_SHARE = 0.2


class Scene(NamedTuple):
    """All of a clip but its product. Arrays have an entry a frame; x and y run from -1 to 1 of the room that the product leaves."""

    ground: int
    tones: np.ndarray  # 2, 3: two colours of the ground, in [0, 1]
    waves: np.ndarray  # 4, 3: two frequencies and a phase each, in radians a unit
    camera: np.ndarray  # T, 4: pan x and y, zoom, roll in radians
    size: float  # half of the product's longer side
    x: np.ndarray
    y: np.ndarray
    grow: np.ndarray  # factor on the size
    turn: np.ndarray  # radians in the plane
    yaw: np.ndarray  # radians about the product's own axis
    light: np.ndarray  # factor on all colours
    lamp: float  # direction the light comes from, radians
    occluder: np.ndarray | None  # angle, offset at start, drift, half width, 3 colours
    moves: str


def draw_scene(seed: Sequence[int], num_frames: int) -> Scene:
    """The scene of `seed`: the same numbers wherever it is asked for."""
    rng = np.random.default_rng(list(seed))
    t = np.linspace(0, 1, num_frames)
    ease = 0.5 - 0.5 * np.cos(np.pi * t)
    ground = int(rng.integers(len(GROUNDS)))
    tones = np.array([(0.62, 0.45, 0.30), (0.66, 0.67, 0.68), (0.78, 0.69, 0.52), (0.50, 0.56, 0.62), (0.80, 0.79, 0.77)])[ground]
    tones = tones * rng.uniform(0.8, 1.12) + rng.uniform(-0.07, 0.07, 3)
    dark = tones * rng.uniform(0.68, 0.85)
    waves = rng.uniform(-1, 1, (4, 3)) * (7.0, 7.0, np.pi)
    pan, zoom, roll = rng.uniform(-0.18, 0.18, 2), rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08)
    camera = np.stack([pan[0] * ease, pan[1] * ease, 1 + zoom * ease, roll * ease], 1)
    way, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0)
    start = rng.uniform(-0.5, 0.5, 2)
    x, y = (np.clip(start[i] + length * d * (ease - 0.5), -1, 1) for i, d in enumerate((np.cos(way), np.sin(way))))
    grow = rng.uniform(0.04, 0.12) * rng.choice((-1, 1))
    spin, tilt = rng.uniform(-0.2, 0.2), rng.uniform(-0.06, 0.06)
    yaw = rng.uniform(-0.3, 0.3) + rng.uniform(-0.4, 0.4) * (ease - 0.5)
    fade = rng.uniform(-0.12, 0.12)
    occluder = None
    size = rng.uniform(0.64, 0.78)
    lamp = rng.uniform(0, 2 * np.pi)
    if rng.uniform() < OCCLUDED_SHARE:
        occluder = np.concatenate(
            [[rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5), rng.uniform(-0.3, 0.3), rng.uniform(0.08, 0.13)], rng.uniform(0.2, 0.8, 3)]
        )
    side = ("right", "down", "left", "up")[int(np.round(way / (np.pi / 2))) % 4]
    moves = f"moves {side} and {'comes closer' if grow > 0 else 'moves away'}"
    return Scene(
        ground, np.clip(np.stack([tones, dark]), 0, 1), waves, camera, size, x, y, 1 + grow * (ease - 0.5), tilt + spin * (ease - 0.5),
        yaw, 1 + fade * (2 * ease - 1), lamp, occluder, moves,
    )  # fmt: skip


def reference_scene(seed: Sequence[int]) -> Scene:
    """One picture on plain ground, from another side than any clip shows."""
    rng = np.random.default_rng(list(seed))
    tone = np.full((2, 3), rng.uniform(0.86, 0.94))
    turn, yaw = rng.uniform(-0.45, 0.45, 1), rng.uniform(-0.75, 0.75, 1)
    zero = np.zeros(1)
    return Scene(
        MARBLE, tone, np.zeros((4, 3)), np.array([[0.0, 0.0, 1.0, 0.0]]), rng.uniform(0.74, 0.84), zero, zero, np.ones(1), turn, yaw,
        np.array([rng.uniform(0.92, 1.05)]), rng.uniform(0, 2 * np.pi), None, "",
    )  # fmt: skip


def render(products: Sequence[Product], scenes: Sequence[Scene], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Frames N,T,3,H,W uint8 and masks N,T,H,W bool, True wherever the product gives any colour to the pixel."""
    x, y = _grid(height, width)
    ground = _background(scenes, x, y)
    colour, cover = _product(products, scenes, x, y, height, width)
    cover = cover * (1 - _occluders(ground, scenes, x, y))
    frames = ground + (colour - ground) * cover[..., None]
    lit = frames * _column([s.light for s in scenes])[..., None]
    return (lit.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 4, 2, 3).contiguous(), cover > 0


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    short = min(height, width)
    y = (torch.arange(height) + 0.5 - height / 2) * (2 / short)
    x = (torch.arange(width) + 0.5 - width / 2) * (2 / short)
    return x.view(1, 1, 1, -1), y.view(1, 1, -1, 1)


def _column(values: Sequence[np.ndarray]) -> Tensor:
    """N arrays of T numbers as N,T,1,1."""
    return torch.from_numpy(np.stack(values).astype(np.float32))[..., None, None]


def _turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos(), angle.sin()
    return cos * x + sin * y, cos * y - sin * x


def _soft_square(x: Tensor) -> Tensor:
    return torch.tanh(4 * torch.sin(x))


def _background(scenes: Sequence[Scene], x: Tensor, y: Tensor) -> Tensor:
    """N,T,H,W,3: the ground as the moving camera sees it."""
    camera = torch.from_numpy(np.stack([s.camera for s in scenes]).astype(np.float32))[..., None, None]
    waves = torch.from_numpy(np.stack([s.waves for s in scenes]).astype(np.float32))
    tones = torch.from_numpy(np.stack([s.tones for s in scenes]).astype(np.float32))
    gx, gy = _turned(x, y, camera[:, :, 3])
    gx, gy = gx * camera[:, :, 2] + camera[:, :, 0], gy * camera[:, :, 2] + camera[:, :, 1]
    value = torch.empty(*gx.shape)
    kinds = torch.tensor([s.ground for s in scenes])
    for kind in kinds.unique().tolist():
        i = kinds == kind
        a, b = gx[i], gy[i]
        w = waves[i][:, :, :, None, None, None]
        phase = w[:, 0, 2]
        wave = [torch.sin(w[:, k, 0] * a + w[:, k, 1] * b + w[:, k, 2]) for k in range(4 if kind == SAND else 2)]
        if kind == WOOD:
            v = 0.6 * _soft_square(5.0 * b + phase) + 0.4 * torch.sin(9 * b + 1.5 * wave[0])
        elif kind == TILES:
            v = 0.8 * _soft_square(5.0 * a + phase) * _soft_square(5.0 * b + w[:, 1, 2]) + 0.2 * wave[0]
        elif kind == SAND:
            v = (wave[0] + wave[1] + wave[2] + wave[3]) / 2
        elif kind == CLOTH:
            v = 0.7 * torch.sin(9 * a + phase) * torch.sin(9 * b + w[:, 1, 2]) + 0.4 * wave[0]
        else:
            v = 1 - 1.6 * torch.sin(3 * a + 2 * b + 1.2 * wave[0] + phase).abs() + 0.3 * wave[1]
        value[i] = v.clamp(-1, 1)
    mix = (0.5 + 0.5 * value)[..., None]
    vignette = (1 - 0.12 * (x**2 + y**2).clamp(max=2.0))[..., None]
    first, second = tones[:, None, None, None, 0], tones[:, None, None, None, 1]
    return (second + (first - second) * mix) * vignette


def _product(products: Sequence[Product], scenes: Sequence[Scene], x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The product's colour N,T,H,W,3 and its cover N,T,H,W, both in [0, 1]."""
    short = min(height, width)
    half = np.array([width / short, height / short])
    sides = [max(unit_size(p.shape, STRETCH[p.proportion])) for p in products]
    size = [s.size / side for s, side in zip(scenes, sides, strict=True)]
    room = [half - 1.05 * s.size for s in scenes]  # another product of the same scene stands in the same square
    cx = _column([s.x * r[0] for s, r in zip(scenes, room, strict=True)])
    cy = _column([s.y * r[1] for s, r in zip(scenes, room, strict=True)])
    scale = _column([s.grow * z for s, z in zip(scenes, size, strict=True)])
    u, v = _turned((x - cx) / scale, (y - cy) / scale, _column([s.turn for s in scenes]))
    yaw = _column([s.yaw for s in scenes])
    stretch = torch.tensor([STRETCH[p.proportion] for p in products]).view(-1, 1, 1, 1)
    u, v = u / (stretch * yaw.cos()), v * stretch
    sharp = scale * short / 2  # pixels a unit
    edge = _by_name([p.shape for p in products], SHAPES, u, v)
    cover = _inside(edge, sharp)
    accent = _inside(_by_name([p.pattern for p in products], PATTERNS, u, v, edge), sharp)
    place = torch.tensor([GLYPH_PLACE.get(p.shape, GLYPH_DEFAULT) for p in products])
    gu, gv, gs = place[:, 0].view(-1, 1, 1, 1), place[:, 1].view(-1, 1, 1, 1), place[:, 2].view(-1, 1, 1, 1)
    glyph = _inside(_by_name([p.glyph for p in products], GLYPHS, (u - gu) / gs, (v - gv) / gs), sharp * gs)
    main, second, ink = (torch.tensor([COLOURS[getattr(p, name)] for p in products]).view(-1, 1, 1, 1, 3) for name in ("colour", "accent", "ink"))
    paint = main + (second - main) * accent[..., None]
    paint = paint + (ink - paint) * glyph[..., None]
    lamp = _column([np.array([s.lamp]) for s in scenes])
    shade = 0.95 - 0.10 * (lamp.cos() * u + lamp.sin() * v) - 0.12 * (u + 0.6 * yaw) ** 2
    return (paint * shade.clamp(0.55, 1.1)[..., None]).clamp(0, 1), cover


def _by_name(names: Sequence[str], table: Mapping[str, Callable[..., Tensor]], *args: Tensor) -> Tensor:
    """table[name](*args) of each clip, clips of one name together."""
    out = torch.empty_like(args[0])
    for name in sorted(set(names)):
        i = torch.tensor([n == name for n in names])
        out[i] = table[name](*(a[i] for a in args))
    return out


def _inside(distance: Tensor, sharp: Tensor) -> Tensor:
    """Cover of a pixel by what lies at `distance` units (negative inside), `sharp` pixels a unit."""
    return (0.5 - distance * sharp).clamp(0, 1)


def _occluders(frames: Tensor, scenes: Sequence[Scene], x: Tensor, y: Tensor) -> Tensor:
    """A bar in front of some clips, drawn into `frames`; its cover N,T,H,W."""
    cover = torch.zeros(frames.shape[:-1])
    t = torch.linspace(0, 1, frames.shape[1]).view(-1, 1, 1)
    for n, scene in enumerate(scenes):
        if scene.occluder is not None:
            angle, offset, drift, half, *rgb = scene.occluder.tolist()
            across = np.cos(angle) * x[0] + np.sin(angle) * y[0] - (offset + drift * t)
            cover[n] = ((half - across.abs()) * min(frames.shape[2:4]) / 2 + 0.5).clamp(0, 1)
            frames[n] += (torch.tensor(rgb) - frames[n]) * cover[n][..., None]
    return cover
