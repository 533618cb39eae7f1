"""What the loop refuses before any engine is built, and what it shows the model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pvtt_model.recipes import recipe_by_name
from pvtt_model.reference.features import PictureFeatures
from pvtt_model.training import kept_samples, step_loss
from pvtt_model.training.loop import train
from pvtt_model.training.samples import Place, Sample

STAGE = recipe_by_name("nano").stages[0]


def test_no_samples(tmp_path):
    with pytest.raises(ValueError, match="stage 'verify' has no samples. Look at the masks' table"):
        train(STAGE, None, [], torch.zeros(1, 64), 32, None, tmp_path)


def test_another_number_of_workers(tmp_path):
    place = Place("a", tmp_path, tmp_path, 0)
    with pytest.raises(ValueError, match="wants 2 workers, got 1. Set parallel.num_workers=1"):
        train(STAGE, None, [place], torch.zeros(1, 64), 32, None, tmp_path)


class Recorder:
    """An engine that remembers what the model was shown, and answers nought."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.shown: list[tuple[torch.Tensor, ...]] = []
        self.teacher = SimpleNamespace(resampled_BND=torch.zeros(1, 3, 4), kind="vace", reads_image=False)

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        self.shown.append(args)
        return torch.zeros_like(args[0])


@pytest.fixture
def shown(monkeypatch):
    """shown(draws, variants, mask_weight): what the model sees of these draws (noisy, variant of each) and the loss; variant v's context holds v."""

    def show(
        draws: list[tuple[int, int]], variants: int, mask_weight: float = 1.0, words_weight: float = 0.0
    ) -> tuple[torch.Tensor, list[int], float]:
        def read(place: Place, injection: str) -> Sample:
            g = torch.Generator().manual_seed(place.row)
            control = torch.arange(variants).float().view(-1, 1, 1, 1, 1).expand(-1, 96, 1, 2, 2).clone()
            control[:, 32:, :, 0] = 0
            control[:, 32:, :, 1] = 1
            return Sample(
                torch.randn(16, 1, 2, 2, generator=g), control, torch.zeros(2, 4), (PictureFeatures(torch.zeros(3, 4)),), torch.full((2, 4), 0.5)
            )

        monkeypatch.setattr(kept_samples, "read_sample", read)
        engine, stage = (
            Recorder(),
            STAGE.model_copy(update={"objective": STAGE.objective.model_copy(update={"mask_weight": mask_weight, "words_weight": words_weight})}),
        )
        kept = kept_samples.KeptSamples([Place(str(i), None, None, i) for i in range(40)])
        loss = step_loss.micro_batch_loss(stage, engine, kept, torch.zeros(1, 4), 4, draws)
        ((noisy, _, _, control, *_),) = engine.shown
        return noisy, [int(c[0, 0, 0, 0]) for c in control], float(loss)

    return show


def test_a_variant_a_draw(shown):
    draws = [(d, d) for d in range(40)]
    noisy, variants, _ = shown(draws, 3)
    assert set(variants) == {0, 1, 2}
    assert shown(draws[7:8], 3)[1] == variants[7:8], "it hangs on the draw's number alone"
    alone = shown(draws, 1)
    assert set(alone[1]) == {0} and torch.equal(alone[0], noisy), "drawn last: noise and level are those of a clip with one mask"


def test_the_mask_weighs(shown):
    """A weight of a million leaves the masked half alone, so the loss is that half's mean; the two halves' mean is the plain one."""
    draws = [(0, 0), (1, 1)]
    plain, inside, outside = (shown(draws, 1, w)[2] for w in (1.0, 1e6, 1e-6))
    assert inside != pytest.approx(outside, rel=1e-2)
    assert plain == pytest.approx((inside + outside) / 2, rel=1e-4)


def test_the_words_weigh(shown):
    """The engine's tokens are zeros, whose distance from any words is 1."""
    draws = [(0, 0), (1, 1)]
    assert shown(draws, 1, words_weight=0.25)[2] == pytest.approx(shown(draws, 1, words_weight=0.0)[2] + 0.25, rel=1e-5)


def test_a_variant_of_the_video_a_draw(monkeypatch):
    """The clip's own latents are 0, those of variant v are v: at the clip's level the model sees more by (1 - sigma) v."""

    def shown(draws: list[tuple[int, int]], videos: int) -> list[tuple[torch.Tensor, float, float]]:
        def read(place: Place, injection: str) -> Sample:
            x0 = torch.arange(videos).float().view(-1, 1, 1, 1, 1).expand(-1, 16, 1, 2, 2)
            control = x0[:, None, :1].expand(-1, 2, 96, 1, 2, 2).clone()
            sample = Sample(x0[0], control[0], torch.zeros(2, 4), (PictureFeatures(torch.zeros(3, 4)),), torch.zeros(0, 4))
            return sample._replace(more_x0_NCFHW=x0[1:], more_control_NVMFHW=control[1:]) if videos > 1 else sample

        monkeypatch.setattr(kept_samples, "read_sample", read)
        engine = Recorder()
        step_loss.micro_batch_loss(STAGE.model_copy(update={"objective": STAGE.objective.model_copy(update={"words_weight": 0.0})}), engine,
                   kept_samples.KeptSamples([Place(str(i), None, None, i) for i in range(40)]), torch.zeros(1, 4), 4, draws)  # fmt: skip
        ((noisy, sigma, _, control, *_),) = engine.shown
        return [(x, float(s), float(c[0, 0, 0, 0])) for x, s, c in zip(noisy, sigma, control, strict=True)]

    draws = [(d, d) for d in range(40)]
    plain, varied = shown(draws, 1), shown(draws, 3)
    assert {v for _, _, v in varied} == {0, 1, 2} and {v for _, _, v in plain} == {0}
    for (noisy, sigma, video), (alone, sigma_alone, _) in zip(varied, plain, strict=True):
        assert sigma == sigma_alone, "drawn last: noise and level are those of a clip without variants"
        assert torch.allclose(noisy, alone + (1 - sigma) * video, atol=1e-5)
    assert [v for _, _, v in shown(draws[7:8], 3)] == [varied[7][2]], "it hangs on the draw's number alone"
