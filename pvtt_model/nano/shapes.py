"""Product shapes as signed distances, and the palettes and patterns on them. Coordinates: u right, v down; a shape's half height is about 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

Array = np.ndarray

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


def _circle(u: Array, v: Array, r: float, cu: float = 0.0, cv: float = 0.0) -> Array:
    return np.hypot(u - cu, v - cv) - r


def _box(u: Array, v: Array, half_u: float, half_v: float, cv: float = 0.0, round_by: float = 0.08) -> Array:
    du, dv = np.abs(u) - half_u + round_by, np.abs(v - cv) - half_v + round_by
    return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0) - round_by


def _bottle(u: Array, v: Array) -> Array:
    return np.minimum(_box(u, v, 0.55, 0.65, 0.35, 0.2), _box(u, v, 0.24, 0.4, -0.6, 0.05))


def _mug(u: Array, v: Array) -> Array:
    handle = np.abs(_circle(u, v, 0.42, 0.68)) - 0.11
    return np.minimum(_box(u, v, 0.68, 0.85, 0.0, 0.12), handle)


def _bag(u: Array, v: Array) -> Array:
    handle = np.maximum(np.abs(_circle(u, v, 0.42, 0.0, -0.35)) - 0.09, v + 0.2)
    return np.minimum(_box(u, v, 0.85, 0.62, 0.35, 0.15), handle)


def _star(u: Array, v: Array) -> Array:
    angle = np.abs(np.mod(np.arctan2(u, -v) + np.pi / 5, 2 * np.pi / 5) - np.pi / 5)
    across, along = np.hypot(u, v) * np.sin(angle), np.hypot(u, v) * np.cos(angle)
    return 0.897 * across + 0.443 * (along - 1.0)  # the edge from a tip at radius 1 to a notch at radius 0.5


def _vase(u: Array, v: Array) -> Array:
    width = 0.42 + 0.26 * np.sin(2.6 * (v + 0.55))
    return np.maximum(np.abs(u) - width, np.abs(v) - 0.95)


def _ring(u: Array, v: Array) -> Array:
    return np.abs(_circle(u, v, 0.68)) - 0.27


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "bottle": _bottle,
    "mug": _mug,
    "bag": _bag,
    "star": _star,
    "vase": _vase,
    "ring": _ring,
    "ball": lambda u, v: _circle(u, v, 0.85),
    "box": lambda u, v: _box(u, v, 0.7, 0.85),
}

PATTERNS: dict[str, Callable[[Array, Array], Array]] = {
    "stripes": lambda u, v: np.mod(v * 2.2 + 0.25, 1.0) < 0.45,
    "dots": lambda u, v: np.hypot(np.mod(u * 2.2 + 0.5, 1.0) - 0.5, np.mod(v * 2.2 + 0.5, 1.0) - 0.5) < 0.28,
    "checks": lambda u, v: np.mod(np.floor(u * 2.4) + np.floor(v * 2.4), 2) < 0.5,
}


@cache
def unit_size(shape: str) -> tuple[float, float]:
    """Area and the radius of the circle about the origin that holds the shape, in its own units."""
    side = np.linspace(-1.6, 1.6, 321)
    u, v = np.meshgrid(side, side)
    inside = SHAPES[shape](u, v) < 0
    return float(inside.mean() * 3.2**2), float(np.hypot(u, v)[inside].max())
