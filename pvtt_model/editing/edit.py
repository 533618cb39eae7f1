"""One held-out clip edited: its own frames, another product's pictures, the teacher in between."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from pvtt_model.backbones.image import letterbox
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation.frames import frames_and_mask, to_frames
from pvtt_model.curation.mask_policy import widen
from pvtt_model.data.video_io import png_bytes, read_picture
from pvtt_model.editing.sample import EditInputs, composite, sample_edit
from pvtt_model.specs import EditSpec, LatentSpec
from pvtt_model.training.schedule import seed_of
from pvtt_model.training.teacher import Teacher

Row = dict[str, Any]
REFERENCE_SIDE = 224  # pixels of the stored letterboxed reference


def edit_clip(
    teacher: Teacher,
    vae: VideoAutoencoder,
    template: dict[str, Row],
    reference: dict[str, Row],
    empty_text_LD: Tensor,
    edit: EditSpec,
    latents: LatentSpec,
    max_text_tokens: int,
) -> Row:
    """The edits row of one clip.

    template and reference: the rows 'clips', 'masks', 'latents', 'conditions' of the clip that is edited and of the one whose
    product and prompt go in. A clip whose latents are unusable gives an unusable row with the reason: counted, never skipped.
    """
    clip, product = template["clips"], reference["clips"]
    row: Row = {
        "clip_key": clip["clip_key"], "usable": True, "reason": None, "reference_key": product["clip_key"], "prompt": product["prompt"],
        "source": [], "mask": [], "raw": [], "composited": [], "round_trip": [], "reference": None, "fps": clip["fps"],
    }  # fmt: skip
    if not template["latents"]["usable"]:
        return row | {"usable": False, "reason": template["latents"]["reason"]}
    z, c = load(template["latents"]["tensors"]), load(reference["conditions"]["tensors"])
    control = torch.cat([z["inactive_CFHW"].float(), z["reactive_CFHW"].float(), z["mask_MFHW"].float()])
    device = next(teacher.parameters()).device
    inputs = EditInputs(*(t.to(device) for t in (control, c["text_LD"].float(), empty_text_LD.float(), c["reference_NPC"].float().flatten(0, 1))))
    try:
        sampled = sample_edit(teacher, inputs, edit, max_text_tokens, seed_of(edit.seed, clip["clip_key"]))
    except FloatingPointError as error:
        return row | {"usable": False, "reason": str(error)}
    raw = to_frames(vae.decode(sampled[None])[0].cpu())
    round_trip = to_frames(vae.decode(z["latents_CFHW"].float()[None])[0].cpu())
    frames, exact = frames_and_mask(clip, template["masks"], latents.video)
    mask = widen(exact, latents.mask_policy)
    picture = letterbox(read_picture(product["references"][0]), REFERENCE_SIDE)
    return row | {
        "source": _pngs(frames),
        "mask": _pngs(mask),
        "raw": _pngs(raw),
        "composited": _pngs(composite(raw, frames, mask, edit.feather_px)),
        "round_trip": _pngs(round_trip),
        "reference": png_bytes((picture * 255).round().to(torch.uint8)),
    }


def _pngs(frames: Tensor) -> list[bytes]:
    return [png_bytes(frame) for frame in frames]
