"""Masks found on two real clips against masks by hand, and a sheet of what VACE is shown under each mask policy and fill.

    .venv/bin/python benchmarks/real_masks.py DATA [--frames N] [--sheet OUT.jpg]        DATA holds videos/ and weights/ (docs: shared data)

No product pictures of these clips' things are to be had: the reference is the largest part of the given mask in ANOTHER frame of the
clip, cut out with a tenth of margin and what lies behind it. Encoders: none (the centre, contrast and motion), nano-dinov2 (which has seen a
procedural world only), and tf-efficientnet-lite0, a small ImageNet network that stands in for DINOv2 and carries its own name. The sheet shows
the masks' and fills' geometry; it edits nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.curation.frames import to_frames, to_model
from pvtt_model.curation.mask_policy import box_of, fill_inside, widen
from pvtt_model.curation.mask_quality import iou
from pvtt_model.curation.masks import mask_of
from pvtt_model.curation.providers import MaskModels
from pvtt_model.data.video_io import decode, fit, fit_mask, png_bytes, png_mask
from pvtt_model.evaluation.pictures import INK, PAPER, font, to_image
from pvtt_model.nano.shipped import shipped, shipped_folder
from pvtt_model.specs import MaskPolicy, MaskSpec, ModelSpec, VideoSpec

REFERENCE_FRAMES = {"mug_pour": (80, 40), "red_cups": (60, 30)}
POLICIES = [
    MaskPolicy(kind=kind, grow_px=px) for kind, px in (("precise", 0), ("grow", 16), ("blocks", 32), ("box", 16), ("square", 16), ("full", 0))
]
FILLS = ("original", "neutral", "black", "scaled")
SHEET = VideoSpec(width=416, height=240, num_frames=81)


def cut_out(frame_CHW: torch.Tensor, mask_HW: torch.Tensor) -> bytes:
    """PNG of the mask's largest part with a tenth of margin on each side."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask_HW.numpy().astype(np.uint8))
    box = box_of(torch.from_numpy(labels == 1 + int(np.argmax(stats[1:, 4]))))
    assert box is not None
    top, left, bottom, right = box
    down, across = (bottom - top) // 10, (right - left) // 10
    return png_bytes(frame_CHW[:, max(0, top - down) : bottom + down, max(0, left - across) : right + across].contiguous())


def compare(data: Path, name: str, count: int) -> None:
    """A line a provider and reference: IoU with the given mask over all frames and in the first and last, and what the row says of itself."""
    video, mask = ((data / "videos" / f"{name}{end}.mp4").read_bytes() for end in ("", "_mask"))
    frames, given = decode(video), decode(mask).float().mean(1).round() > 127
    lite0 = ModelSpec(architecture="tf-efficientnet-lite0", weights=str(data / "weights" / "tf_efficientnet_lite0_timm.safetensors"))
    nano = shipped("dinov2", ModelSpec)
    encoders = {spec: load_image_encoder(spec, folder) for spec, folder in ((nano, shipped_folder(nano.weights)), (lite0, Path(lite0.weights)))}
    models = MaskModels(lambda spec: encoders[spec], no_sam2)
    for reference in REFERENCE_FRAMES[name]:
        row = {"clip_key": name, "video": video, "mask_format": "none", "mask": [], "metadata": "{}"}
        row |= {"references": [cut_out(frames[reference], given[reference])]}
        for spec in (None, nano, lite0) if reference == REFERENCE_FRAMES[name][0] else (nano, lite0):
            start = time.perf_counter()
            found = mask_of(row, VideoSpec(num_frames=count), MaskSpec(image_encoder=spec), models=models)
            took_s = time.perf_counter() - start
            masks = torch.stack([png_mask(m) for m in found["mask"]])
            print(
                f"{name:9} {found['provenance']:33} reference from frame {reference:2}  IoU {iou(masks, given[:count]):.3f}  "
                f"first {iou(masks[0], given[0]):.3f}  last {iou(masks[-1], given[count - 1]):.3f}  match {found['match'] or float('nan'):.2f}  "
                f"temporal IoU {found['temporal_iou']:.2f}  {took_s:.1f} s  risk: {found['risk'] or found['reason']}",
                flush=True,
            )


def no_sam2(_: ModelSpec) -> Any:
    raise ValueError("no SAM 2 weights are to be had here")


def sheet(data: Path, name: str, frame: int) -> Image.Image:
    """One frame under every policy (a line each) and fill (a column each): the frame as VACE's inactive and reactive halves add up to."""
    frames = fit(decode(data / "videos" / f"{name}.mp4")[frame : frame + 1], SHEET)
    mask = fit_mask((decode(data / "videos" / f"{name}_mask.mp4")[frame : frame + 1].float().mean(1).round() > 127), SHEET)
    width, height, left, top = SHEET.width // 2, SHEET.height // 2, 130, 34
    page = Image.new("RGB", (left + len(FILLS) * (width + 6), top + len(POLICIES) * (height + 6)), PAPER)
    draw = ImageDraw.Draw(page)
    for column, fill in enumerate(FILLS):
        draw.text((left + column * (width + 6), 8), f"fill {fill}", fill=INK, font=font(15))
    for line, policy in enumerate(POLICIES):
        y, wide = top + line * (height + 6), widen(mask, policy)
        draw.text((8, y + 30), f"{policy.kind}" + (f" {policy.grow_px} px" if policy.grow_px else ""), fill=INK, font=font(15))
        draw.text((8, y + 52), f"{float(wide.float().mean()):.1%} masked", fill=INK, font=font(13))
        for column, fill in enumerate(FILLS):
            shown = to_frames(fill_inside(to_model(frames).transpose(0, 1), wide, fill).transpose(0, 1))[0]
            page.paste(to_image(shown).resize((width, height), Image.Resampling.LANCZOS), (left + column * (width + 6), y))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.sheet:
        sheet(args.data, "mug_pour", 40).save(args.sheet, quality=85)
        return
    for name in REFERENCE_FRAMES:
        compare(args.data, name, args.frames)


if __name__ == "__main__":
    main()
