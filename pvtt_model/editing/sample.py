"""Sampling an edit with the teacher, on VACE's masked path or as its backbone's kind has it; and beside it, from the same noise, what the
teacher is held against. Of Wan2.2's two experts each answers at its own noise levels. Without training, or at reference scale 0, it is diffusers'
own pipeline: tests/pvtt_model/editing/test_pipeline_equality.py.

Two guidance scales, each in the convention uncond + scale (cond - uncond), so that scale 1 is the plain conditional:

    v = v(none) + text (v(text) - v(none)) + reference (v(text, reference) - v(text))                 arXiv:2211.09800, eq. 3

A velocity whose weight in that sum is zero is not computed. All velocities of the teacher of one step are one batch, whatever
the number of variants; those of the bare backbone are another, because its LoRA is switched off.

background='blended' (Blended Latent Diffusion, arXiv:2206.02779): after every step the cells wholly outside the mask are set to the
template's own latents at that step's noise, so that the background is the template's up to the VAE and the model sees where it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pvtt_model.backbones.conditioning import latent_channels, velocity, with_given
from pvtt_model.editing.schedulers import flow_scheduler
from pvtt_model.objectives.rectified_flow import TIMESTEPS, interpolate
from pvtt_model.reference.features import PictureFeatures, stack_features
from pvtt_model.reference.injection import Encoded
from pvtt_model.specs import EditSpec
from pvtt_model.training.samples import pad_rows
from pvtt_model.training.teacher import Teacher

Variant = Literal["edit", "no_reference", "wrong_reference", "base"]
Velocity = Callable[[Tensor, Tensor], Tensor]


class EditInputs(NamedTuple):
    """What one edit needs: the kind's context (M, F, H, W), text tokens (L, D) given and empty, and what the injection reads of the pictures."""

    control_MFHW: Tensor
    text_LD: Tensor
    empty_text_LD: Tensor
    reference: PictureFeatures
    wrong_reference: PictureFeatures | None = None  # of a third product, for the variant 'wrong_reference'
    source_CFHW: Tensor | None = None  # the template's own latents, and
    made_FHW: Tensor | None = None  # bool, the cells with a masked pixel (latent_mask): both wanted where the background is blended
    image_NC: Tensor | None = None  # the first frame's CLIP tokens, for a backbone that reads them


class Experts(NamedTuple):
    """Teachers of Wan2.2's two experts, on one latent space. boundary: the noise level at and above which `high` answers."""

    high: Teacher
    low: Teacher
    boundary: float


class Condition(NamedTuple):
    """What one row of a batch is given: the latents of which variant, the prompt or none, which reference's tokens or none."""

    variant: int
    text: bool
    reference: Variant | None


def sample_edit(teacher: Teacher | Experts, inputs: EditInputs, spec: EditSpec, max_text_tokens: int, seed: int) -> Tensor:
    """Latents (C, F, H, W) of the edited clip; the same for the same seed. Raises FloatingPointError where they are not finite."""
    return sample_variants(teacher, inputs, ("edit",), spec, max_text_tokens, seed)["edit"]


@torch.no_grad()
def sample_variants(
    teacher: Teacher | Experts,
    inputs: EditInputs,
    variants: Sequence[Variant],
    spec: EditSpec,
    max_text_tokens: int,
    seed: int,
    on_step: Callable[[], None] | None = None,
) -> dict[Variant, Tensor]:
    """Latents (C, F, H, W) by variant, all from the noise of `seed`.

    edit: the teacher with its reference. no_reference: without. wrong_reference: with inputs.wrong_reference. base: the backbone as it
    was before training, without LoRA and reference. A variant does not change the others. One that is not finite is left out;
    where that is the edit itself, FloatingPointError. Raises ValueError where 'wrong_reference' is asked for and there is none, and where
    the background is to be blended and inputs.source_CFHW or made_FHW is not given. on_step: called after every step of the taught variants.
    """
    if spec.background == "blended" and (inputs.source_CFHW is None or inputs.made_FHW is None):
        raise ValueError("edit.background is 'blended', but inputs.source_CFHW or made_FHW is None. Give the template's latents and latent_mask.")
    if "wrong_reference" in variants and inputs.wrong_reference is None:
        raise ValueError("the variant 'wrong_reference' is asked for, but inputs.wrong_reference is None. Give a third product's pictures.")
    for one in each_of(teacher):
        one.eval()
    shape = (1, latent_channels(each_of(teacher)[0].transformer), *inputs.control_MFHW.shape[1:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(inputs.control_MFHW.device)
    found: dict[Variant, Tensor] = {}
    taught = [v for v in variants if v != "base"]
    if taught:
        with reference_scaled(teacher, spec):
            found |= _sampled(teacher, inputs, taught, spec, max_text_tokens, noise, on_step)
    if "base" in variants:
        with bare_backbone(teacher):
            found |= _sampled(teacher, inputs, ["base"], spec, max_text_tokens, noise)
    finite = {name: found[name] for name in variants if bool(torch.isfinite(found[name]).all())}
    if "edit" in variants and "edit" not in finite:
        raise FloatingPointError(
            "sampling gave values that are not finite. Lower edit.guidance_text and guidance_reference, or look at the checkpoint."
        )
    return finite


def each_of(teacher: Teacher | Experts) -> tuple[Teacher, ...]:
    """The high-noise expert's and the low-noise one's, or the one there is."""
    return (teacher.high, teacher.low) if isinstance(teacher, Experts) else (teacher,)


@contextmanager
def bare_backbone(teacher: Teacher | Experts) -> Iterator[None]:
    """Inside, the transformer is the published one: LoRA off, own weights as they were. Outside it is as it was, whatever happened inside."""
    for one in each_of(teacher):
        one.transformer.disable_adapters()  # type: ignore[operator]
        one.swap_published()
    try:
        yield
    finally:
        for one in each_of(teacher):
            one.swap_published()
            one.transformer.enable_adapters()  # type: ignore[operator]


@contextmanager
def reference_scaled(teacher: Teacher | Experts, spec: EditSpec) -> Iterator[None]:
    """Inside, the reference adds to the layers what spec.reference_scale and path_scales say; outside as before."""
    before = [(one.reference_scale, one.path_scales) for one in each_of(teacher)]
    for one in each_of(teacher):
        one.reference_scale, one.path_scales = spec.reference_scale, spec.path_scales
    try:
        yield
    finally:
        for one, was in zip(each_of(teacher), before, strict=True):
            one.reference_scale, one.path_scales = was


def _sampled(
    teacher: Teacher | Experts,
    inputs: EditInputs,
    variants: Sequence[Variant],
    spec: EditSpec,
    max_text_tokens: int,
    noise_1CFHW: Tensor,
    on_step: Callable[[], None] | None = None,
) -> dict[Variant, Tensor]:
    answers = [_answer(one, inputs, variants, of_it, max_text_tokens) for one, of_it in zip(each_of(teacher), _specs(spec), strict=False)]
    scheduler = flow_scheduler(spec)
    latents = noise_1CFHW.expand(len(variants), -1, -1, -1, -1)
    for step, timestep in enumerate(scheduler.timesteps):
        low = isinstance(teacher, Experts) and bool(timestep < teacher.boundary * TIMESTEPS)
        guided = answers[1 if low else 0](latents, timestep)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        if spec.background == "blended":
            latents = _blended(latents, inputs, noise_1CFHW, scheduler.sigmas[step + 1])
        if on_step is not None:
            on_step()
    latents = with_given(each_of(teacher)[0].kind, latents, inputs.control_MFHW[None])
    return dict(zip(variants, latents, strict=True))


def _specs(spec: EditSpec) -> tuple[EditSpec, EditSpec]:
    """The settings of the first, or only, expert and of the low-noise one."""
    low = spec.guidance_text if spec.guidance_text_low is None else spec.guidance_text_low
    return spec, spec.model_copy(update={"guidance_text": low})


def _answer(teacher: Teacher, inputs: EditInputs, variants: Sequence[Variant], spec: EditSpec, max_text_tokens: int) -> Velocity:
    """guided(latents (V, C, F, H, W), timestep) -> the docstring's sum of each variant."""
    conditions = [c for i, variant in enumerate(variants) for c in _conditions(i, variant, spec)]
    each = _velocity(teacher, inputs, conditions, max_text_tokens)

    def guided(latents_VCFHW: Tensor, timestep: Tensor) -> Tensor:
        v_RCFHW = each(latents_VCFHW, timestep)
        return torch.stack([_guided(i, conditions, v_RCFHW, spec) for i in range(len(variants))])

    return guided


def latent_mask(mask_THW: Tensor, cell: int = 8) -> Tensor:
    """bool (F, h, w): the latent cells, of `cell` pixels either way, any of whose pixels is masked in any of the frames that they stand for (the
    first; then four each).

    VACE's own packed mask takes one frame of the four, so the rim of a moving mask is missing in it.
    """
    frames = F.max_pool2d(mask_THW[:, None].float(), cell)[:, 0]
    later = frames[1:].unflatten(0, (-1, 4)).amax(1) if len(frames) > 1 else frames[1:]
    return torch.cat([frames[:1], later]).bool()


def _blended(latents_VCFHW: Tensor, inputs: EditInputs, noise_1CFHW: Tensor, sigma: Tensor) -> Tensor:
    """The latents where the mask has a pixel; elsewhere the template's at noise level `sigma`."""
    assert inputs.source_CFHW is not None and inputs.made_FHW is not None
    source = inputs.source_CFHW[None].to(latents_VCFHW)
    return torch.where(inputs.made_FHW.bool(), latents_VCFHW, interpolate(source, noise_1CFHW, sigma.view(1).to(source)))


def _conditions(index: int, variant: Variant, spec: EditSpec) -> list[Condition]:
    """The rows of a variant whose weight in the guided sum is not zero."""
    reference: Variant | None = variant if variant in ("edit", "wrong_reference") else None
    scale = spec.guidance_reference if reference else 0.0
    rows = [
        (1 - spec.guidance_text, Condition(index, False, None)),
        (spec.guidance_text - scale, Condition(index, True, None)),
        (scale, Condition(index, True, reference)),
    ]
    return [row for weight, row in rows if weight != 0]


def _guided(index: int, conditions: Sequence[Condition], v_RCFHW: Tensor, spec: EditSpec) -> Tensor:
    """The docstring's sum for one variant. A velocity that was not computed has no weight, so any other may stand in its place."""
    rows = {(c.text, c.reference is not None): v for c, v in zip(conditions, v_RCFHW, strict=True) if c.variant == index}
    none, text, both = rows.get((False, False)), rows.get((True, False)), rows.get((True, True))
    anchor = next(v for v in (text, both, none) if v is not None)
    none, text, both = (anchor if v is None else v for v in (none, text, both))
    scale = spec.guidance_reference if (True, True) in rows else 0.0
    return none + spec.guidance_text * (text - none) + scale * (both - text)


def _velocity(teacher: Teacher, inputs: EditInputs, conditions: Sequence[Condition], max_text_tokens: int) -> Velocity:
    """each(latents (V, C, F, H, W), timestep) -> (R, C, F, H, W), a row a condition.

    It is Teacher.forward, but what no step changes (the references' tokens, the texts) is computed once here.
    """
    device = inputs.control_MFHW.device
    dtype: torch.dtype = teacher.transformer.patch_embedding.weight.dtype  # type: ignore[union-attr,assignment]
    text, empty = (pad_rows(t, max_text_tokens) for t in (inputs.text_LD, inputs.empty_text_LD))
    text_RLD = torch.stack([text if c.text else empty for c in conditions]).to(dtype)
    control = inputs.control_MFHW[None].expand(len(conditions), -1, -1, -1, -1).to(dtype)
    image = None if inputs.image_NC is None else inputs.image_NC[None].expand(len(conditions), -1, -1).to(dtype)
    which = torch.tensor([c.variant for c in conditions], device=device)
    present_R = torch.tensor([c.reference is not None for c in conditions], device=device)
    teacher.give_reference(_encoded(teacher, inputs, conditions, text_RLD), present_R)

    def each(latents_VCFHW: Tensor, timestep: Tensor) -> Tensor:
        sigma = (timestep / 1000.0).expand(len(conditions)).to(device)
        return velocity(teacher.transformer, teacher.kind, latents_VCFHW[which].to(dtype), sigma * TIMESTEPS, text_RLD, control, image).float()

    return each


def _encoded(teacher: Teacher, inputs: EditInputs, conditions: Sequence[Condition], text_RLD: Tensor) -> Encoded | None:
    """What the injection makes of every row's reference, anything where it has none; None where no row has one."""
    pictures = {"edit": inputs.reference, "wrong_reference": inputs.wrong_reference}
    wanted = list(dict.fromkeys(c.reference for c in conditions if c.reference))
    if not wanted:
        return None
    given = [p for name in wanted if (p := pictures[name]) is not None]
    features = stack_features([p.to(text_RLD.device, text_RLD.dtype) for p in given])
    texts = torch.stack([text_RLD[next(i for i, c in enumerate(conditions) if c.reference == name)] for name in wanted])
    encoded = teacher.encode_reference(features, texts, inputs.control_MFHW.shape[1])
    rows = torch.tensor([wanted.index(c.reference or wanted[0]) for c in conditions], device=text_RLD.device)
    return tuple(t[rows] for t in encoded)
