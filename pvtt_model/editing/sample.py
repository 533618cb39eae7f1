"""Sampling an edit with the teacher, on VACE's masked path.

Two guidance scales, each in the convention uncond + scale (cond - uncond), so that scale 1 is the plain conditional:

    v = v(none) + text (v(text) - v(none)) + reference (v(text, reference) - v(text))                 arXiv:2211.09800, eq. 3
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from pvtt_model.specs import EditSpec
from pvtt_model.training.samples import pad_rows
from pvtt_model.training.teacher import Teacher


class EditInputs(NamedTuple):
    """What one edit needs: VACE's context (M, F, H, W), text tokens (L, D) given and empty, reference patch tokens (P, C)."""

    control_MFHW: Tensor
    text_LD: Tensor
    empty_text_LD: Tensor
    reference_PC: Tensor


def flow_scheduler(spec: EditSpec) -> UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler:
    """The recipe's sampler over flow sigmas. DDIM is not among them: it refuses flow prediction."""
    if spec.scheduler == "unipc":
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=spec.shift)
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=spec.shift)
        # Unshifted sigmas given: set_timesteps(N) would shift the low end twice.
        scheduler.set_timesteps(sigmas=[1 - i / spec.num_steps for i in range(spec.num_steps)])
        return scheduler
    scheduler.set_timesteps(spec.num_steps)
    return scheduler


@torch.no_grad()
def sample_edit(teacher: Teacher, inputs: EditInputs, spec: EditSpec, max_text_tokens: int, seed: int) -> Tensor:
    """Latents (C, F, H, W) of the edited clip; the same for the same seed."""
    teacher.eval()
    device, dtype = inputs.control_MFHW.device, next(teacher.resampler.parameters()).dtype
    channels: int = teacher.transformer.config.in_channels  # type: ignore[assignment,union-attr]
    latents = torch.randn(1, channels, *inputs.control_MFHW.shape[1:], generator=torch.Generator().manual_seed(seed)).to(device)
    text, empty = (pad_rows(t, max_text_tokens) for t in (inputs.text_LD, inputs.empty_text_LD))
    # rows: nothing, text, text and reference
    text_BLD = torch.stack([empty, text, text]).to(dtype)
    has_reference = torch.tensor([0.0, 0.0, 1.0], device=device)
    reference = inputs.reference_PC[None].expand(3, -1, -1).to(dtype)
    keep = torch.ones(reference.shape[:2], dtype=torch.bool, device=device)
    control = inputs.control_MFHW[None].expand(3, -1, -1, -1, -1).to(dtype)
    scheduler = flow_scheduler(spec)
    for timestep in scheduler.timesteps:
        sigma = (timestep / 1000.0).expand(3).to(device)
        v = teacher(latents.expand(3, -1, -1, -1, -1).to(dtype), sigma, text_BLD, control, reference, keep, has_reference).float()
        guided = v[0] + spec.guidance_text * (v[1] - v[0]) + spec.guidance_reference * (v[2] - v[1])
        latents = scheduler.step(guided[None], timestep, latents, return_dict=False)[0]
    if not torch.isfinite(latents).all():
        raise FloatingPointError(
            "sampling gave values that are not finite. Lower edit.guidance_text and guidance_reference, or look at the checkpoint."
        )
    return latents[0]


def composite(raw_TCHW: Tensor, source_TCHW: Tensor, mask_THW: Tensor, feather_px: int) -> Tensor:
    """The edit inside the mask, the source's own pixels outside, uint8. The blend lies wholly inside: no pixel outside the mask changes."""
    alpha = mask_THW.float()[:, None]
    if feather_px:
        side = 2 * feather_px + 1
        padded = F.pad(alpha, [feather_px] * 4, mode="replicate")
        alpha = alpha * F.avg_pool2d(padded, side, stride=1).mul(2).sub(1).clamp(0, 1)
    mixed = raw_TCHW.float() * alpha + source_TCHW.float() * (1 - alpha)
    return mixed.round().clamp(0, 255).to(torch.uint8)
