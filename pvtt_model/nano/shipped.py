"""The trained nano weights that come with the project: where they lie, and the hash each must have. Light: no torch."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pvtt_model.specs import ModelSpec

FOLDER = Path(__file__).parent / "weights"
INDEX = FOLDER / "index.json"
Model = TypeVar("Model", bound=ModelSpec)


@cache
def index() -> dict[str, Any]:
    """name -> {architecture, file, sha256, and its card: data, steps, minutes, score}."""
    return dict(json.loads(INDEX.read_text()))


def shipped_folder(weights: str) -> Path:
    """The folder of weights 'nano:NAME'. Raises ValueError naming those there are."""
    name = weights.removeprefix("nano:")
    _card(name)
    return FOLDER / name


def shipped(name: str, kind: type[Model]) -> Model:
    """The spec of shipped weights, hash and all. kind: ModelSpec or BackboneSpec. Raises ValueError naming those there are."""
    card = _card(name)
    return kind(architecture=card["architecture"], weights=f"nano:{name}", sha256=card["sha256"])


def _card(name: str) -> dict[str, Any]:
    if name not in index():
        raise ValueError(f"no shipped weights 'nano:{name}'. Valid: {', '.join('nano:' + n for n in index())}.")
    return dict(index()[name])
