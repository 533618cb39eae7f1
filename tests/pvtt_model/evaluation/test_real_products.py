"""The crop rule and a small real embedding tell twelve real products apart."""

from __future__ import annotations

import torch
from PIL import Image

from pvtt_model.evaluation.frames import decode_reference
from pvtt_model.evaluation.similarity import embed_reference


def test_the_nearest_photograph_is_of_the_same_product(shared_data, lite0) -> None:
    paths = sorted((shared_data / "products").glob("*/*.jpg"))
    names = [path.parent.name for path in paths]
    assert len(set(names)) == 12 and Image.open(paths[0]).size[0] <= 512
    vectors = torch.nn.functional.normalize(torch.cat([embed_reference(lite0, decode_reference(path.read_bytes())) for path in paths]), dim=1)
    cosines = vectors @ vectors.T
    same = torch.tensor([[a == b for b in names] for a in names])
    itself = torch.eye(len(names), dtype=torch.bool)
    nearest = cosines.masked_fill(itself, -2).argmax(1)
    right = sum(names[i] == names[j] for i, j in enumerate(nearest.tolist())) / len(names)
    within, between = float(cosines[same & ~itself].mean()), float(cosines[~same].mean())
    print(f"{len(paths)} photographs: nearest right {right:.1%}, cosine same {within:.2f}, different {between:.2f}")
    assert right >= 0.95 and within > between + 0.25
