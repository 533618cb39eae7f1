"""Product shapes, patterns and glyphs as signed distances (negative inside), and the palette. Elementwise torch.

Coordinates: u right, v down; a shape's half height is about 1. What is drawn is coarse: stripes, dots and glyphs are a quarter of
the product or more, because a latent cell is 8 pixels wide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.83, 0.16, 0.16),
    "orange": (0.93, 0.52, 0.13),
    "yellow": (0.95, 0.83, 0.22),
    "green": (0.18, 0.60, 0.27),
    "teal": (0.10, 0.58, 0.60),
    "blue": (0.16, 0.33, 0.78),
    "purple": (0.51, 0.25, 0.68),
    "pink": (0.93, 0.49, 0.66),
    "white": (0.95, 0.95, 0.93),
    "black": (0.12, 0.12, 0.14),
}


def _circle(u: Tensor, v: Tensor, r: float, cu: float = 0.0, cv: float = 0.0) -> Tensor:
    return torch.hypot(u - cu, v - cv) - r


def _box(u: Tensor, v: Tensor, half_u: float, half_v: float, cv: float = 0.0, round_by: float = 0.08) -> Tensor:
    du, dv = u.abs() - half_u + round_by, (v - cv).abs() - half_v + round_by
    return torch.hypot(du.clamp(min=0), dv.clamp(min=0)) + torch.maximum(du, dv).clamp(max=0) - round_by


def _bottle(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(_box(u, v, 0.58, 0.66, 0.34, 0.2), _box(u, v, 0.25, 0.4, -0.6, 0.05))


def _mug(u: Tensor, v: Tensor) -> Tensor:
    handle = _circle(u, v, 0.42, 0.68).abs() - 0.12
    return torch.minimum(_box(u, v, 0.68, 0.85, 0.0, 0.12), handle)


def _bag(u: Tensor, v: Tensor) -> Tensor:
    handle = torch.maximum(_circle(u, v, 0.42, 0.0, -0.35).abs() - 0.11, v + 0.2)
    return torch.minimum(_box(u, v, 0.85, 0.62, 0.35, 0.15), handle)


def _star(u: Tensor, v: Tensor) -> Tensor:
    fifth = 2 * torch.pi / 5
    angle = (torch.remainder(torch.atan2(u, -v) + fifth / 2, fifth) - fifth / 2).abs()
    radius = torch.hypot(u, v)
    return 0.897 * radius * torch.sin(angle) + 0.443 * (radius * torch.cos(angle) - 1.05)  # from a tip to a notch at half the radius


def _vase(u: Tensor, v: Tensor) -> Tensor:
    width = 0.42 + 0.28 * torch.sin(2.6 * (v + 0.55))
    return torch.maximum((u.abs() - width) * 0.8, v.abs() - 0.95)


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return _circle(u, v, 0.66).abs() - 0.29


SHAPES: dict[str, Distance] = {
    "bottle": _bottle,
    "mug": _mug,
    "bag": _bag,
    "star": _star,
    "vase": _vase,
    "ring": _ring,
    "ball": lambda u, v: _circle(u, v, 0.85),
    "box": lambda u, v: _box(u, v, 0.72, 0.85),
}

#: Where a shape's glyph stands (u, v) and its size.
GLYPH_PLACE: dict[str, tuple[float, float, float]] = {"bottle": (0, 0.34, 0.36), "bag": (0, 0.35, 0.36), "ring": (0, 0.66, 0.26)}
GLYPH_DEFAULT = (0.0, 0.0, 0.38)


def _periodic(x: Tensor, period: float) -> Tensor:
    """Distance to the nearest of lines `period` apart, less a quarter period: negative on half of the ground."""
    return (torch.remainder(x / period, 1.0) - 0.5).abs() * period - period / 4


def _dots(u: Tensor, v: Tensor) -> Tensor:
    return torch.hypot(torch.remainder(u / 0.62 + 0.5, 1.0) - 0.5, torch.remainder(v / 0.62 + 0.5, 1.0) - 0.5) * 0.62 - 0.19


def _checks(u: Tensor, v: Tensor) -> Tensor:
    a, b = _periodic(u + 0.2, 0.8), _periodic(v + 0.2, 0.8)
    return torch.maximum(torch.minimum(a, b), -torch.maximum(a, b))  # one of the two, not both


#: Where the accent colour is, of u, v and the distance to the shape's edge.
PATTERNS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "rim": lambda u, v, edge: -0.17 - edge,
    "stripes": lambda u, v, edge: _periodic(v + 0.17, 0.68),
    "bars": lambda u, v, edge: _periodic(u + 0.17, 0.68),
    "dots": lambda u, v, edge: _dots(u, v),
    "checks": lambda u, v, edge: _checks(u, v),
    "halves": lambda u, v, edge: (u + v) * 0.7071,
}

#: In a square of half side 1.
GLYPHS: dict[str, Distance] = {
    "disc": lambda u, v: torch.hypot(u, v) - 0.8,
    "cross": lambda u, v: torch.minimum(torch.maximum(u.abs() - 0.3, v.abs() - 0.95), torch.maximum(v.abs() - 0.3, u.abs() - 0.95)),
    "triangle": lambda u, v: torch.maximum(0.89 * u.abs() - 0.45 * v - 0.4, v - 0.75),
    "bar": lambda u, v: torch.maximum(u.abs() - 1.0, v.abs() - 0.35),
}


@cache
def unit_size(shape: str, stretch: float) -> tuple[float, float]:
    """Half width and half height of the box about the origin that holds the shape, in its own units."""
    side = torch.linspace(-1.8, 1.8, 361)
    v, u = torch.meshgrid(side, side, indexing="ij")
    inside = SHAPES[shape](u / stretch, v * stretch) < 0
    return float(u[inside].abs().max()), float(v[inside].abs().max())
