"""A clip and its mask as the latents that training reads: the clip itself, and VACE's context. arXiv:2503.07598.

VACE splits the frames by the mask M (1: to be made): inactive F (1 - M), kept; reactive F M, to be made. Here the frames inside
the widened mask are first replaced by the fill, in normalised space (neutral is 0), so that with neutral and black the old product cannot leak.
Both halves and the packed mask are those of diffusers' WanVACEPipeline: tests/pvtt_model/curation/test_vace_preprocessing.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation.frames import DTYPES, to_model
from pvtt_model.curation.i2v_context import FIRST, IMAGE, first_latents, first_tokens
from pvtt_model.curation.mask_policy import fill_inside
from pvtt_model.curation.vace_references import reference_latents
from pvtt_model.curation.variants import stored_context, variant_name
from pvtt_model.curation.video_variants import LeftOut, VideoVariant, clip_variants
from pvtt_model.data.video_io import PictureUnreadable
from pvtt_model.specs import LatentSpec, MaskSpec

if TYPE_CHECKING:  # it takes seconds to load
    from pvtt_model.backbones.clip import ClipModel

REFERENCES = "references_NCFHW"  # a row's tensor of the reference pictures, one frame each, where LatentSpec.references asks for it
PIXELS_A_CALL = 1 << 22  # of all frames that go through the VAE together: small clips gain by it, large ones would not fit


def pack_mask(mask_THW: Tensor, cell: int = 8) -> Tensor:
    """The mask (T, H, W) as VACE's channels (M, F, h, w), uint8: the cell x cell pixels of each latent cell (64 of Wan2.1's VAE, 256 of
    Wan2.2's), at F = (T + 3) // 4 frames."""
    frames, height, width = mask_THW.shape
    cells = mask_THW.float().view(frames, height // cell, cell, width // cell, cell).permute(2, 4, 0, 1, 3).flatten(0, 1)
    size = ((frames + 3) // 4, height // cell, width // cell)
    return F.interpolate(cells[None], size=size, mode="nearest-exact")[0].to(torch.uint8)


def vace_contexts(frames_TCHW: Tensor, masks: Sequence[Tensor], spec: LatentSpec, vae: VideoAutoencoder) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The clip's own normalised latents (C, F, H, W), and of each already widened mask inactive_CFHW, reactive_CFHW and mask_MFHW.

    Where the fill is neutral nothing of the clip is left inside, whatever the mask: that reactive
    half is the latents of a grey clip, encoded once a process and size.
    """
    video = to_model(frames_TCHW)
    kept, made = [], []
    for mask_THW in masks:
        filled = fill_inside(video.transpose(0, 1), mask_THW, spec.fill, spec.fill_scale).transpose(0, 1)
        inside = mask_THW.to(video.dtype)
        kept.append(filled * (1 - inside))
        made.append(filled * inside)
    grey = spec.fill == "neutral"
    latents = _encoded([video, *kept] if grey else [video, *kept, *made], vae)
    inactive = latents[1 : 1 + len(masks)]
    reactive = [grey_latents(vae, tuple(video.shape))] * len(masks) if grey else latents[1 + len(masks) :]
    packed = [pack_mask(mask, vae.space_stride) for mask in masks]
    contexts = [{"inactive_CFHW": i, "reactive_CFHW": r, "mask_MFHW": m} for i, r, m in zip(inactive, reactive, packed, strict=True)]
    return latents[0], contexts


def _encoded(videos: Sequence[Tensor], vae: VideoAutoencoder) -> Tensor:
    """(N, C, F, H, W) of N clips (3, T, H, W), as many at once as is good."""
    size = max(1, PIXELS_A_CALL // videos[0][0].numel())
    return torch.cat([vae.encode(torch.stack(list(videos[i : i + size]))) for i in range(0, len(videos), size)])


@lru_cache(maxsize=8)  # a bucket of VideoSpec.sizes each
def grey_latents(vae: VideoAutoencoder, shape_CTHW: tuple[int, ...]) -> Tensor:
    """Normalised latents (C, F, H, W) of a clip that is neutral grey, 0, all over."""
    return vae.encode(torch.zeros(1, *shape_CTHW))[0]


def encode_latents(
    clip: dict[str, Any],
    mask: dict[str, Any],
    spec: LatentSpec,
    vae: VideoAutoencoder,
    timeout_s: float = 120.0,
    masks: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
    shot_threshold: float | None = None,
    clip_model: ClipModel | None = None,
) -> dict[str, Any]:
    """The latents row of one clip; a clip whose mask was refused stays in its row, unusable, with the mask's reason.

    Clips that the manifest holds out are never trained on: they get variant 0 alone, of the mask and of the video. Of a usable row, reason says
    which video variants were left out and why; the others are numbered without a gap. timeout_s: of decoding a file, seconds; a clip that takes
    longer is unusable too. masks, shot_threshold: see clip_variants(); without video variants neither matters.
    """
    found = clip_variants(clip, mask, spec, masks, shot_threshold, timeout_s) if mask["usable"] else ()
    return latents_row(clip, mask, found, spec, vae, clip_model)


def latents_row(
    clip: dict[str, Any],
    mask: dict[str, Any],
    variants: Iterable[VideoVariant | LeftOut],
    spec: LatentSpec,
    vae: VideoAutoencoder,
    clip_model: ClipModel | None = None,
) -> dict[str, Any]:
    """encode_latents() of variants that are decoded already. clip_model: the one that spec.first_frame_clip names."""
    if (spec.first_frame_clip is None) != (clip_model is None):
        raise ValueError(f"latents.first_frame_clip is {spec.first_frame_clip}, and the CLIP given {clip_model}. Give the one that it names.")
    row: dict[str, Any] = {"clip_key": clip["clip_key"], "usable": mask["usable"], "reason": mask["reason"], "tensors": b""}
    if not mask["usable"]:
        return row
    stored: dict[str, Tensor] = {}
    dtype, videos, left_out = DTYPES[spec.dtype], 0, []
    for found in variants:
        if isinstance(found, LeftOut):
            if found.number == 0:
                return row | {"usable": False, "reason": found.reason}
            left_out.append(f"video variant {found.number} is left out: {found.reason}")
            continue
        latents, contexts = vace_contexts(found.frames_TCHW, found.masks, spec, vae)
        tensors = {variant_name("latents_CFHW", 0, videos): latents}
        for i, context in enumerate(contexts):
            tensors |= stored_context(context, i, videos)
        if spec.first_frame:
            tensors[variant_name(FIRST, 0, videos)] = first_latents(vae, to_model(found.frames_TCHW)[:, 0], len(found.frames_TCHW))
        if clip_model is not None:
            tensors[variant_name(IMAGE, 0, videos)] = first_tokens(clip_model, found.frames_TCHW[0])
        if spec.references != "none" and videos == 0:
            try:
                height, width = found.frames_TCHW.shape[-2:]
                tensors[REFERENCES] = reference_latents(clip["references"], (height, width), spec.references, vae)
            except PictureUnreadable as error:
                return row | {"usable": False, "reason": f"reference picture: {error}"}
        stored |= {name: (t if t.dtype == torch.uint8 else t.to(dtype)).cpu().clone() for name, t in tensors.items()}
        videos += 1
    return row | {"tensors": save(stored), "reason": "; ".join(left_out) or None}
