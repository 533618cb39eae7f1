"""What a clip of the nano world shows, in words."""

from __future__ import annotations

from pvtt_model.curation.prompts import article
from pvtt_model.nano.products import Product
from pvtt_model.nano.render import GROUNDS, Scene


def phrase(product: Product | None, scene: Scene) -> str:
    """The product, what it does, and on what, with the product's words verbatim. None leaves the product unnamed."""
    words = product.words if product else "product"
    return f"{article(words)} {words} {scene.moves} over {GROUNDS[scene.ground]}"


def sentence(text: str) -> str:
    """A phrase as a manifest has it: capital letter and full stop. Nothing stays nothing."""
    return text[:1].upper() + text[1:] + ("." if text else "")
