"""A few cells of docs/evaluation.md's calibration table, on four small frames of the real pouring hand."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.evaluation.background_lpips import background_lpips
from pvtt_model.evaluation.background_psnr import background_psnr_db
from pvtt_model.evaluation.background_ssim import background_ssim
from pvtt_model.evaluation.distortions import distorted, shuffled
from pvtt_model.evaluation.flicker import added_flicker, temporal_flicker
from pvtt_model.evaluation.frames import decode_reference
from pvtt_model.evaluation.metric_cards import CARDS, card_of, cards_markdown
from pvtt_model.evaluation.similarity import embed_reference, product_similarity


@pytest.fixture(scope="module")
def faults(shared_data, mug_pour) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    video, mask = mug_pour(4, 96, 160, every=3)
    return video, mask, distorted(video, mask, decode_reference((shared_data / "products" / "duck_toy" / "00.jpg").read_bytes()))


@pytest.mark.parametrize("kind", ["noise", "blur", "hue"])
def test_the_background_is_seen_and_the_product_is_not(faults, stlpips, kind: str) -> None:
    source, mask, edits = faults
    inside, outside = edits[f"{kind} inside"], edits[f"{kind} outside"]
    assert not torch.equal(inside, source)
    for edit in (inside, edits["swapped product"]):
        assert background_psnr_db(edit, source, mask) == 100.0 and background_ssim(edit, source, mask) == pytest.approx(
            background_ssim(source, source, mask), abs=1e-7
        )
        assert background_lpips(stlpips, edit, source, mask) == 0.0 and added_flicker(edit, source, mask) == 0.0
    assert background_psnr_db(outside, source, mask) < 30 and background_ssim(outside, source, mask) < 0.95
    assert background_lpips(stlpips, outside, source, mask) > 0.05


def test_the_product_is_seen_and_the_background_is_not(faults, lite0) -> None:
    source, mask, edits = faults
    reference = embed_reference(lite0, torch.where(mask[2], source[2], torch.tensor(128, dtype=torch.uint8)))
    like = {name: product_similarity(lite0, video, mask, reference, 0.1) for name, video in [("source", source), *edits.items()]}
    assert like["noise outside"] == like["hue outside"] == like["source"]
    assert max(like["noise inside"], like["hue inside"], like["blur inside"]) < like["source"]


def test_freezing_flatters_flicker_and_not_what_is_added(faults) -> None:
    source, mask, edits = faults
    assert temporal_flicker(edits["frozen"]) == 1.0 > temporal_flicker(source)
    assert added_flicker(edits["frozen"], source, mask) > 0.005
    assert torch.equal(shuffled(source), source[[0, 2, 3, 1]])


def test_every_metric_has_a_card() -> None:
    assert card_of("warp_error_source[raft-small]") is CARDS["warp_error"] and card_of("nothing") is None
    assert cards_markdown().count("\n") == len(CARDS) + 1
