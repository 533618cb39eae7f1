"""The products among which a judge has to find the right one: their pictures in one Parquet file, their embeddings once a process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch.nn import functional as F

from pvtt_model.data.shards import read_rows
from pvtt_model.evaluation.crops import reference_square
from pvtt_model.evaluation.frames import decode_reference
from pvtt_model.evaluation.similarity import ImageExtractor, embedded, side_of

SCHEMA = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("look_alikes", pa.string()),  # name of the group of products that are easily taken for one another, or null
        pa.field("pictures", pa.list_(pa.binary()), nullable=False),  # the reference pictures' bytes
    ]
)
LOOK_ALIKES = 9  # at most so many of the candidates share the right product's group, itself not counted


class Gallery(NamedTuple):
    """product_id -> its group, and its mean unit embedding (D,), of unit length again."""

    look_alikes: dict[str, str | None]
    embeddings: dict[str, torch.Tensor]


class Candidates(NamedTuple):
    products: list[str]  # in an order that says nothing about which is right
    look_alikes: int  # how many share the right one's group


@torch.no_grad()
def read_gallery(path: str | Path, judge: ImageExtractor) -> Gallery:
    """Every product's pictures, each on a square (reference_square), embedded. Raises ValueError for a picture that has no finite embedding."""
    groups: dict[str, str | None] = {}
    embeddings: dict[str, torch.Tensor] = {}
    for row in read_rows(path):
        squares = torch.stack([reference_square(decode_reference(data), side_of(judge)) for data in row["pictures"]])
        groups[row["product_id"]] = row["look_alikes"]
        embeddings[row["product_id"]] = mean_direction(embedded(judge, squares))
    return Gallery(groups, embeddings)


def mean_direction(embeddings_BD: torch.Tensor) -> torch.Tensor:
    """(D,): the mean of unit vectors, made a unit vector."""
    return F.normalize(F.normalize(embeddings_BD, dim=-1).mean(dim=0), dim=-1)


def choose_candidates(
    groups: dict[str, str | None], clip_key: str, right: str, wrong: str | None, most: int, look_alikes: int = LOOK_ALIKES
) -> Candidates:
    """At most `most` products, the right one among them, the same for the same clip.

    First the wrong reference's, so that finding it can be measured; then the right one's look-alikes; then others; each by a hash of clip and
    product. Raises ValueError where the right product is not in the gallery, or no other is.
    """
    if right not in groups:
        raise ValueError(f"product '{right}' is not in the gallery of {len(groups)} products, so it cannot be found there.")

    others = sorted((p for p in groups if p not in (right, wrong)), key=lambda p: _place(f"{clip_key} {p}"))

    def is_alike(product: str) -> bool:
        return product != right and groups[right] is not None and groups[product] == groups[right]

    first = [right] + ([wrong] if wrong is not None and wrong in groups else [])
    alike, unlike = [p for p in others if is_alike(p)], [p for p in others if not is_alike(p)]
    chosen = [*first, *alike[:look_alikes], *unlike, *alike[look_alikes:]][:most]
    if len(chosen) < 2:
        raise ValueError("the gallery holds no other product: the right one cannot be told from any. Hold out more products.")
    return Candidates(sorted(chosen, key=lambda p: _place(f"{p} {clip_key}")), sum(map(is_alike, chosen)))


def _place(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def gallery_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorted by product, one a product: the first of those given."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(str(row["product_id"]), row)
    return [first[product] for product in sorted(first)]
