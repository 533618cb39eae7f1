"""The identity loss through the shipped VAE and image encoder: what it decodes, what it counts, and where its gradients go."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.vae import load_vae
from pvtt_model.curation.latents import pack_mask
from pvtt_model.nano.shipped import FOLDER
from pvtt_model.objectives.identity import LossModels, identity_loss, pixel_mask, pooled_reference, product_crop, shown_frames
from pvtt_model.objectives.level_bins import level_record
from pvtt_model.objectives.rectified_flow import data_estimate, interpolate
from pvtt_model.recipes import recipe_by_name
from pvtt_model.reference.features import PictureFeatures
from pvtt_model.specs import ObjectiveSpec
from pvtt_model.training import step_loss
from pvtt_model.training.samples import Sample

RECIPE = recipe_by_name("nano")


@pytest.fixture(scope="module")
def models() -> LossModels:
    return LossModels(load_vae(RECIPE.latents.vae, FOLDER / "vae"), load_image_encoder(RECIPE.conditions.image_encoder, FOLDER / "dinov2"))


@pytest.fixture(scope="module")
def scene(models):
    """Two clips of 9 frames, 64 x 64: a coloured square on grey; their latents, masks and reference features, the first's own picture and another."""
    frames = torch.zeros(2, 3, 9, 64, 64)
    frames[:, 0, :, 16:48, 16:48], frames[:, 1, :, 16:48, 16:48] = 0.8, -0.8
    mask = torch.zeros(9, 64, 64, dtype=torch.bool)
    mask[:, 16:48, 16:48] = True
    own = product_crop((frames[0, :, 0] + 1) / 2, mask[0], 64)
    other = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    patches = models.image.patch_tokens(torch.stack([own, other]))
    return SimpleNamespace(x0=models.vae.encode(frames), mask=pack_mask(mask).float().expand(2, -1, -1, -1, -1), patches=patches)


def test_the_mask_comes_back_in_pixels():
    mask = torch.rand(5, 16, 24, generator=torch.Generator().manual_seed(0)) > 0.5
    pixels = pixel_mask(pack_mask(mask)[None].float())[0]
    assert shown_frames(2, 2) == [1, 3], "the frames that the cells' masks are of"
    assert torch.equal(pixels, mask[[1, 3]])
    assert shown_frames(2, 1) == [0] and shown_frames(21, 3) == [0 + 1, 5, 8], "and never one that is not decoded"


def test_the_first_latent_frames_alone_are_the_whole_s_beginning(models, scene):
    """Causal: what is decoded of k latent frames equals the first 4 k - 3 frames of all."""
    whole = models.vae.decode(scene.x0[:1])
    for k in (1, 2):
        part = models.vae.decode_with_grad(scene.x0[:1, :, :k])
        assert part.shape[2] == 4 * k - 3
        torch.testing.assert_close(part, whole[:, :, : 4 * k - 3], atol=1e-5, rtol=0)


def test_the_right_product_costs_less(models, scene):
    keep = torch.ones(scene.patches.shape[:2], dtype=torch.bool)
    loss, has = identity_loss(scene.x0, scene.mask, pooled_reference(scene.patches, keep), torch.ones(2), models, 1)
    assert has.tolist() == [True, True] and 0 <= float(loss[0]) < float(loss[1]) <= 2


def test_who_has_none_is_nought_and_decodes_nothing(models, scene):
    pooled = pooled_reference(scene.patches, torch.ones(scene.patches.shape[:2], dtype=torch.bool))
    unseen, unreferenced = scene.mask.clone(), pooled.clone()
    unseen[1], unreferenced[1] = 0, 0
    full, _ = identity_loss(scene.x0, scene.mask, pooled, torch.ones(2), models, 1)
    for mask, reference, counts in ((unseen, pooled, [1, 1]), (scene.mask, unreferenced, [1, 1]), (scene.mask, pooled, [1, 0])):
        loss, has = identity_loss(scene.x0, mask, reference, torch.tensor(counts), models, 1)
        assert has.tolist() == [True, False] and float(loss[1]) == 0 and float(loss[0]) == pytest.approx(float(full[0]), abs=1e-5)
    loss, has = identity_loss(scene.x0, scene.mask, pooled, torch.zeros(2), LossModels(None, None), 1)
    assert loss.tolist() == [0, 0] and not has.any()
    absent = pooled_reference(scene.patches, torch.zeros(scene.patches.shape[:2], dtype=torch.bool))
    assert not absent.any()


def test_gradients_by_finite_difference(models, scene):
    """Along one direction in the latents, against (L(x + h d) - L(x - h d)) / 2 h."""
    reference, x0 = pooled_reference(scene.patches[1:], torch.ones(1, scene.patches.shape[1], dtype=torch.bool)), scene.x0[:1].clone()
    direction = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))

    def loss(x: torch.Tensor) -> torch.Tensor:
        return identity_loss(x, scene.mask[:1], reference, torch.ones(1), models, 2)[0].sum()

    variable = x0.clone().requires_grad_()
    loss(variable).backward()
    assert variable.grad[:, :, 2:].abs().max() == 0, "frames that are not decoded get none"
    h = 2e-3
    numeric = float(loss(x0 + h * direction) - loss(x0 - h * direction)) / (2 * h)
    assert float((variable.grad * direction).sum()) == pytest.approx(numeric, rel=0.05, abs=1e-4)


class Direct:
    """The loop's engine without DeepSpeed."""

    device = torch.device("cpu")

    def __init__(self, teacher) -> None:
        self.teacher = teacher

    def forward(self, *args):
        return self.teacher(*args)


@pytest.mark.parametrize("below", [0.3, 0.2001])
def test_the_loop_s_gradients(models, make_teacher, below):
    """Below identity_below the loss reaches the LoRA and the adapter, never the VAE or the encoder; above, it is not taken at all."""
    g = torch.Generator().manual_seed(0)
    teacher = make_teacher("nano-s").train()
    for name, p in teacher.named_parameters():
        if "lora_B" in name or "to_v_ref" in name:  # both start at zero, where the other factor has no gradient yet
            torch.nn.init.normal_(p, std=0.02, generator=g)
    c, text = teacher.transformer.config.in_channels, teacher.transformer.config.text_dim
    mask = torch.zeros(1, 64, 2, 4, 4)
    mask[:, :, :, 1:3, 1:3] = 1
    control = torch.cat([torch.randn(1, 2 * c, 2, 4, 4, generator=g), mask], 1)
    image = torch.randn(1, 5, models.image.width, generator=g)
    pictures = (PictureFeatures(image[0]),)
    sample = Sample(torch.randn(c, 2, 4, 4, generator=g), control, torch.randn(3, text, generator=g), pictures, torch.zeros(0, text))
    objective = ObjectiveSpec(identity_weight=1.0, reference_dropout=0.0, text_dropout=0.0, identity_below=below, sigma_low=0.2, sigma_high=0.25)
    stage = RECIPE.stages[0].model_copy(update={"objective": objective})
    silent = stage.model_copy(update={"objective": objective.model_copy(update={"identity_weight": 0.0})})
    tally = step_loss.LevelTally()

    def gradients(stage) -> dict[str, torch.Tensor]:
        teacher.zero_grad()
        step_loss.micro_batch_loss(stage, Direct(teacher), [sample], torch.zeros(1, text), 8, [(0, 0)], models, tally).backward()
        return {n: p.grad.clone() for n, p in teacher.named_parameters() if p.grad is not None}

    without, with_it = gradients(silent), gradients(stage)
    changed = {n for n in with_it if not torch.equal(with_it[n], without[n])}
    record = level_record(tally.packed())
    if below == 0.3:
        assert record["identity_loss"] > 0
        assert any("lora_" in n for n in changed) and any("_ref" in n for n in changed) and any("resampler" in n for n in changed)
    else:
        assert "identity_loss" not in record and not changed
    assert all(p.grad is None for p in (*models.vae.model.parameters(), *models.image.model.parameters()))


def test_the_estimate_is_the_data_for_a_true_velocity():
    g = torch.Generator().manual_seed(0)
    x0, noise, sigma = torch.randn(2, 4, 1, 2, 2, generator=g), torch.randn(2, 4, 1, 2, 2, generator=g), torch.tensor([0.1, 0.3])
    torch.testing.assert_close(data_estimate(interpolate(x0, noise, sigma).bfloat16(), (noise - x0).bfloat16(), sigma), x0, atol=0.05, rtol=0.05)
