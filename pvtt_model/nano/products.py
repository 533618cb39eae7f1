"""The products of the nano world: what makes one, how it is called, and in which split it lives for ever."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import numpy as np

from pvtt_model.nano.shapes import COLOURS, GLYPHS, PATTERNS, SHAPES

Split = Literal["train", "validation", "eval"]
STRETCH = {"slim": 0.82, "": 1.0, "wide": 1.22}
INKS = ("white", "black")


class Product(NamedTuple):
    """Identity: shape, proportion, two colours, the pattern they form, and a glyph in one of two inks. 82,944 distinct ones."""

    shape: str
    proportion: str
    colour: str
    accent: str
    pattern: str
    ink: str
    glyph: str

    @property
    def product_id(self) -> str:
        return "-".join(part.replace(" ", "_") or "plain" for part in self)

    @property
    def words(self) -> str:
        return f"{self.proportion} {self.colour} {self.shape} with {self.accent} {self.pattern} and a {self.ink} {self.glyph}".strip()

    @property
    def look_alikes(self) -> str:
        """Products of the same two colours: the hard candidates of a retrieval test."""
        return f"{self.colour}-{self.accent}"


def split_of(product: Product) -> Split:
    """By the hash of the identity: 80 % train, 5 % validation, 15 % eval. No product is ever in two."""
    place = hashlib.sha256(product.product_id.encode()).digest()[0]
    return "train" if place < 205 else "validation" if place < 218 else "eval"


def draw_product(rng: np.random.Generator, split: Split, look_alikes: tuple[str, str] | None = None) -> Product:
    """A product of `split`, of the two given colours or of any, every attribute equally likely."""
    names = [list(table) for table in (SHAPES, STRETCH, COLOURS, COLOURS, PATTERNS, INKS, GLYPHS)]
    while True:
        shape, proportion, colour, accent, pattern, ink, glyph = (table[int(rng.integers(len(table)))] for table in names)
        if look_alikes is not None:
            colour, accent = look_alikes
        # ink on a product of its own colour would not be seen
        product = Product(shape, proportion, colour, accent, pattern, ink, glyph)
        if colour != accent and colour != ink and accent != ink and split_of(product) == split:
            return product
