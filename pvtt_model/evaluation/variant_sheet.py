"""A picture of what training's variants look like: of each clip a line for each mask variant, a column for each video variant."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from pvtt_model.curation.masks import overlay
from pvtt_model.curation.video_variants import LeftOut, VideoVariant
from pvtt_model.evaluation.pictures import ALARM, INK, PAPER, font, one_line, scaled, to_image

TILE_PX, GAP_PX, TEXT_PX, HEAD_PX = 120, 6, 18, 34
Found = VideoVariant | LeftOut


def variant_sheet(clips: Iterable[tuple[Mapping[str, Any], Sequence[Found]]], path: str | Path) -> Path:
    """Write a PNG of (clips row, its variants of clip_variants()): each shown by its first, middle and last frame with the widened mask tinted.

    The first line of a clip has the policy's own masks, the next ones the jittered ones. A variant that was left out says why.
    """
    bands = [_band(clip, found) for clip, found in clips]
    width = max((band.width for band in bands), default=600)
    sheet = Image.new("RGB", (width, HEAD_PX + sum(band.height for band in bands)), PAPER)
    said = (
        "first, middle and last frame of each video variant; a line for each mask variant" if bands else "no usable training clip in the first shard"
    )
    ImageDraw.Draw(sheet).text((GAP_PX, 8), said, fill=INK, font=font(16))
    top = HEAD_PX
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height
    path = Path(path)
    sheet.save(path, format="PNG")
    return path


def _band(clip: Mapping[str, Any], variants: Sequence[Found]) -> Image.Image:
    shown = [found for found in variants if isinstance(found, VideoVariant)]
    height, width = shown[0].frames_TCHW.shape[-2:] if shown else (TILE_PX, TILE_PX)
    tile_w, lines = max(1, round(width * TILE_PX / height)), max((len(found.masks) for found in shown), default=1)
    column_w, line_h = max(240, 3 * tile_w) + 2 * GAP_PX, TILE_PX + GAP_PX
    band = Image.new("RGB", (column_w * len(variants) + GAP_PX, 2 * TEXT_PX + lines * line_h + GAP_PX), PAPER)
    draw = ImageDraw.Draw(band)
    draw.text((GAP_PX, 0), one_line(f"{clip['clip_key']}  {clip.get('prompt') or ''}", 90), fill=INK, font=font(12))
    for column, found in enumerate(variants):
        left = GAP_PX + column * column_w
        if isinstance(found, LeftOut):
            draw.text((left, TEXT_PX), one_line(f"{found.number}: left out", 40), fill=ALARM, font=font(12))
            for line, words in enumerate(textwrap.wrap(found.reason, column_w // 7, max_lines=6)):
                draw.text((left, (2 + line) * TEXT_PX), words, fill=ALARM, font=font(12))
            continue
        said = "as it is" if found.number == 0 else "variant"
        draw.text((left, TEXT_PX), f"{found.number}: {said}, frames {found.used[0]} to {found.used[-1]}", fill=INK, font=font(12))
        at = [0, len(found.used) // 2, len(found.used) - 1]
        for line, mask_THW in enumerate(found.masks):
            for i, picture in enumerate(overlay(found.frames_TCHW[at], mask_THW[at])):
                tile = scaled(to_image(picture), tile_w, TILE_PX)
                band.paste(tile, (left + i * tile_w, 2 * TEXT_PX + line * line_h))
    return band
