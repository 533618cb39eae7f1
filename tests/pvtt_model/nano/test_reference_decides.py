"""The trained base, read through the adapter: what the reference's tokens say is what is drawn. Fails when the adapter is disconnected.

No training: tokens that are a product's own words, behind open gates, must decide the product of an edit, on unseen products, for a
judge that looks at pictures. A base that does not draw, an adapter that is not heard (as it was while only the main blocks read it, and
this base draws in its VACE branch), or tokens that reach nobody all end at chance, 1 of 20.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.nano_ablation import Bench


class Said(nn.Module):
    """In the resampler's place: what it is given is what it says."""

    def forward(self, tokens_BND: Tensor, keep_BN: Tensor | None = None) -> Tensor:
        return tokens_BND


def judged(vace_blocks: bool, gate: float) -> dict[str, float]:
    torch.set_num_threads(1)
    bench = Bench("full" if vace_blocks else "no_vace", 0)
    bench.teacher.resampler = bench.teacher.injection.parts["resampler"] = Said()
    for name, p in bench.teacher.named_parameters():
        if name.endswith(".gate"):
            torch.nn.init.constant_(p, gate / 10)
    pictures = bench.references
    bench.references = lambda seed, step, products: (pictures(seed, step, products)[0], {"patches_PC": bench.embed([p.words for p in products])})
    return bench.judged(20)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_the_tokens_say_is_drawn():
    found = judged(vace_blocks=True, gate=2.0)
    assert found["right"] >= 0.35 and found["wrong_shown"] >= 0.35, found
    assert found["none"] <= 0.15, "without its reference the base does not know the product"
    assert found["right_psnr_db"] > found["none_psnr_db"] + 1.0


@pytest.mark.parametrize(("vace_blocks", "gate"), [(True, 0.0), pytest.param(False, 2.0, marks=pytest.mark.slow)])
def test_a_disconnected_adapter_is_seen(vace_blocks, gate):
    """The test above would fail: with the gates shut, and with only the main blocks hooked."""
    assert judged(vace_blocks, gate)["right"] <= 0.2
