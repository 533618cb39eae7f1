"""Sampling with a nano teacher against loops written by hand."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.editing.sample import EditInputs, bare_backbone, latent_mask, sample_edit, sample_variants
from pvtt_model.editing.schedulers import flow_scheduler
from pvtt_model.reference.features import PictureFeatures, stack_features
from pvtt_model.specs import EditSpec

TOKENS = 8


@pytest.fixture(params=["own", "words"])
def teacher(make_teacher, request):
    """With values, gates and LoRA other than zero, as after training: the reference and the text both count."""
    teacher = make_teacher(space=request.param)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in teacher.trainable().items():
            if "to_v_ref" in name or "lora_B" in name or name.endswith(".gate"):
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return teacher


@pytest.fixture
def inputs(teacher) -> EditInputs:
    g = torch.Generator().manual_seed(3)
    config, image_width = teacher.transformer.config, teacher.resampler.proj_in.in_features
    shapes = ((config.vace_in_channels, 2, 4, 4), (5, config.text_dim), (1, config.text_dim), (7, image_width), (9, image_width))
    *given, right, wrong = (torch.randn(shape, generator=g) for shape in shapes)
    return EditInputs(*given, PictureFeatures(right), PictureFeatures(wrong))


def changed(pictures: PictureFeatures, change) -> PictureFeatures:
    return pictures._replace(patches_PC=change(pictures.patches_PC))


def spec(**changes) -> EditSpec:
    return EditSpec(**{"num_steps": 3, "shift": 3.0, "scheduler": "flow_euler", **changes})


def start(teacher, seed: int) -> torch.Tensor:
    return torch.randn(1, teacher.transformer.config.in_channels, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def pad(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([tokens, torch.zeros(TOKENS - len(tokens), tokens.shape[1])])[None]


@torch.no_grad()
def by_hand(teacher, inputs, seed, sigmas, velocity_of):
    """Euler: x(next) = x + (sigma(next) - sigma) v."""
    latents = start(teacher, seed)
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        latents = latents + (after - sigma) * velocity_of(latents, sigma)
    return latents[0]


def answer(teacher, inputs, latents, sigma, text, with_reference: float):
    return teacher(latents, sigma.view(1), pad(text), inputs.control_MFHW[None], stack_features([inputs.reference]), torch.tensor([with_reference]))


@pytest.mark.parametrize("scheduler", ["unipc", "flow_euler"])
def test_both_samplers_run_and_the_seed_decides(teacher, inputs, scheduler):
    edit = spec(scheduler=scheduler, num_steps=2)
    one, again, other = (sample_edit(teacher, inputs, edit, TOKENS, seed) for seed in (4, 4, 5))
    assert one.shape == (teacher.transformer.config.in_channels, 2, 4, 4) and torch.isfinite(one).all()
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_scales_of_one_are_the_plain_conditional(teacher, inputs):
    edit = spec(guidance_text=1.0, guidance_reference=1.0)
    sigmas = flow_scheduler(edit).sigmas
    expected = by_hand(teacher, inputs, 4, sigmas, lambda x, s: answer(teacher, inputs, x, s, inputs.text_LD, 1.0))
    torch.testing.assert_close(sample_edit(teacher, inputs, edit, TOKENS, 4), expected, rtol=1e-3, atol=1e-4)


def test_scales_of_zero_see_neither_text_nor_reference(teacher, inputs):
    edit = spec(guidance_text=0.0, guidance_reference=0.0)
    sigmas = flow_scheduler(edit).sigmas
    expected = by_hand(teacher, inputs, 4, sigmas, lambda x, s: answer(teacher, inputs, x, s, inputs.empty_text_LD, 0.0))
    torch.testing.assert_close(sample_edit(teacher, inputs, edit, TOKENS, 4), expected, rtol=1e-3, atol=1e-4)


def test_guidance_by_its_formula(teacher, inputs):
    edit = spec(guidance_text=3.0, guidance_reference=2.0)
    sigmas = flow_scheduler(edit).sigmas

    def velocity_of(x, s):
        none = answer(teacher, inputs, x, s, inputs.empty_text_LD, 0.0)
        text = answer(teacher, inputs, x, s, inputs.text_LD, 0.0)
        both = answer(teacher, inputs, x, s, inputs.text_LD, 1.0)
        return none + 3.0 * (text - none) + 2.0 * (both - text)

    torch.testing.assert_close(sample_edit(teacher, inputs, edit, TOKENS, 4), by_hand(teacher, inputs, 4, sigmas, velocity_of), rtol=1e-3, atol=1e-3)


def test_reference_and_text_count(teacher, inputs):
    edit = spec()
    before = sample_edit(teacher, inputs, edit, TOKENS, 4)
    for change in (
        {"reference": changed(inputs.reference, lambda t: t + 1)},
        {"text_LD": inputs.text_LD + 1},
        {"control_MFHW": inputs.control_MFHW + 1},
    ):
        assert not torch.allclose(sample_edit(teacher, inputs._replace(**change), edit, TOKENS, 4), before, atol=1e-4), list(change)


def test_sampling_leaves_no_gradients_and_no_dropout(teacher, inputs):
    teacher.train()
    out = sample_edit(teacher, inputs, spec(), TOKENS, 4)
    assert not teacher.training and not out.requires_grad


ALL = ("edit", "no_reference", "wrong_reference", "base")
SCALES = [(5.0, 2.0), (1.0, 2.0), (1.0, 1.0), (2.0, 2.0), (5.0, 1.0)]


@pytest.mark.parametrize("scheduler", ["unipc", "flow_euler"])
@pytest.mark.parametrize("scales", SCALES)
def test_variants_together_are_what_each_is_alone(teacher, inputs, scheduler, scales):
    edit = spec(scheduler=scheduler, guidance_text=scales[0], guidance_reference=scales[1])
    together = sample_variants(teacher, inputs, ALL, edit, TOKENS, 4)
    assert list(together) == list(ALL)
    for variant, found in together.items():
        alone = sample_variants(teacher, inputs, (variant,), edit, TOKENS, 4)[variant]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)
    for i, one in enumerate(ALL):
        for other in ALL[i + 1 :]:
            assert not torch.allclose(together[one], together[other], atol=1e-4), (one, other)
    wrong = sample_edit(teacher, inputs._replace(reference=inputs.wrong_reference), edit, TOKENS, 4)
    torch.testing.assert_close(together["wrong_reference"], wrong, rtol=1e-5, atol=1e-5)


def test_no_reference_is_the_teacher_without_one(teacher, inputs):
    edit = spec(guidance_text=3.0, guidance_reference=2.0)

    def velocity_of(x, s):
        none, text = answer(teacher, inputs, x, s, inputs.empty_text_LD, 0.0), answer(teacher, inputs, x, s, inputs.text_LD, 0.0)
        return none + 3.0 * (text - none)

    expected = by_hand(teacher, inputs, 4, flow_scheduler(edit).sigmas, velocity_of)
    found = sample_variants(teacher, inputs, ("no_reference",), edit, TOKENS, 4)["no_reference"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_base_is_a_teacher_that_was_never_trained(teacher, inputs, make_teacher):
    edit = spec()
    fresh = sample_variants(make_teacher(), inputs, ("no_reference",), edit, TOKENS, 4)["no_reference"]
    torch.testing.assert_close(sample_variants(teacher, inputs, ("base",), edit, TOKENS, 4)["base"], fresh, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_whole_again_after_the_base_even_on_error(teacher, inputs):
    before, trained = sample_edit(teacher, inputs, spec(), TOKENS, 4), set(teacher.trainable())
    with pytest.raises(RuntimeError, match="boom"), bare_backbone(teacher):
        raise RuntimeError("boom")
    assert torch.equal(sample_edit(teacher, inputs, spec(), TOKENS, 4), before) and set(teacher.trainable()) == trained
    sample_variants(teacher, inputs, ALL, spec(), TOKENS, 4)
    assert torch.equal(sample_edit(teacher, inputs, spec(), TOKENS, 4), before) and set(teacher.trainable()) == trained


def test_a_wrong_reference_must_be_given(teacher, inputs):
    with pytest.raises(ValueError, match="third product"):
        sample_variants(teacher, inputs._replace(wrong_reference=None), ALL, spec(), TOKENS, 4)


def test_what_is_not_finite_is_left_out_and_the_edit_is_refused(teacher, inputs):
    broken = inputs._replace(wrong_reference=changed(inputs.wrong_reference, lambda t: t * float("nan")))
    assert list(sample_variants(teacher, broken, ("edit", "wrong_reference"), spec(), TOKENS, 4)) == ["edit"]
    with pytest.raises(FloatingPointError, match="guidance_text"):
        sample_edit(teacher, inputs._replace(reference=changed(inputs.reference, lambda t: t * float("nan"))), spec(), TOKENS, 4)


@pytest.mark.parametrize("scheduler", ["unipc", "flow_euler"])
@pytest.mark.parametrize("shift", [1.0, 16.0])
def test_levels_fall_from_noise_to_data(scheduler, shift):
    sigmas = flow_scheduler(EditSpec(num_steps=10, scheduler=scheduler, shift=shift)).sigmas
    assert len(sigmas) == 11 and sigmas[0] == pytest.approx(1.0, abs=2e-3) and sigmas[-1] == 0
    assert (sigmas[1:] < sigmas[:-1]).all()


@pytest.fixture
def blended(teacher, inputs) -> tuple[EditInputs, torch.Tensor]:
    """Inputs with the source's latents and one cell to be made; and where that cell is, bool F,H,W."""
    channels = teacher.transformer.config.in_channels
    source = torch.randn(channels, 2, 4, 4, generator=torch.Generator().manual_seed(8))
    made = torch.zeros(2, 4, 4, dtype=torch.bool)
    made[0, 1, 2] = True
    return inputs._replace(source_CFHW=source, made_FHW=made), made


@pytest.mark.parametrize("scheduler", ["unipc", "flow_euler"])
def test_a_blended_background_is_the_source_and_the_masked_cells_are_made(teacher, blended, scheduler):
    given, made = blended
    edit = spec(scheduler=scheduler, background="blended")
    for variant, found in sample_variants(teacher, given, ALL, edit, TOKENS, 4).items():
        assert torch.equal(found[:, ~made], given.source_CFHW[:, ~made]), variant
        assert not torch.isclose(found[:, made], given.source_CFHW[:, made], atol=1e-3).any(), variant
    generated = sample_edit(teacher, given, edit.model_copy(update={"background": "generated"}), TOKENS, 4)
    assert not torch.isclose(generated, given.source_CFHW, atol=1e-3).all(0).any()


def test_blending_by_hand(teacher, blended):
    given, made = blended
    edit = spec(guidance_text=1.0, guidance_reference=1.0, background="blended")
    sigmas, noise = flow_scheduler(edit).sigmas, start(teacher, 4)
    expected = noise
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        expected = expected + (after - sigma) * answer(teacher, given, expected, sigma, given.text_LD, 1.0)
        expected = torch.where(made, expected, (1 - after) * given.source_CFHW + after * noise)
    torch.testing.assert_close(sample_edit(teacher, given, edit, TOKENS, 4), expected[0], rtol=1e-3, atol=1e-4)


def test_blending_wants_the_source(teacher, inputs):
    with pytest.raises(ValueError, match=r"made_FHW is None\. Give"):
        sample_edit(teacher, inputs, spec(background="blended"), TOKENS, 4)


def test_a_cell_is_made_where_any_of_its_pixels_is_masked_in_any_of_its_frames():
    mask = torch.zeros(9, 32, 48, dtype=torch.bool)
    mask[0, 0, 0] = mask[1, 31, 47] = mask[4, 8, 16] = mask[8, 7, 15] = True
    made = latent_mask(mask)
    assert made.shape == (3, 4, 6) and made.dtype == torch.bool
    assert made.nonzero().tolist() == [[0, 0, 0], [1, 1, 2], [1, 3, 5], [2, 0, 1]]
    assert latent_mask(mask[:1]).nonzero().tolist() == [[0, 0, 0]]
