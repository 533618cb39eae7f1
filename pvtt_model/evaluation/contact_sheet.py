"""One picture of all edits: a band an edit; columns source, mask, reference, raw edit, composited; lines first, middle and last frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from pvtt_model.evaluation.frames import edit_frames
from pvtt_model.evaluation.pictures import fitted, font, scaled, tinted, to_image

COLUMNS = ("source", "mask (tinted)", "reference", "raw edit", "composited")
_PAGE_PX, _GAP_PX, _GUTTER_PX, _BAND_TITLE_PX, _HEAD_PX = 1400, 8, 76, 30, 40
_INK, _PALE, _PAPER, _ALARM = (24, 24, 27), (113, 113, 122), (250, 250, 250), (185, 28, 28)


def contact_sheet(rows: Sequence[Mapping[str, Any]], path: str | Path, *, title: str = "", max_rows: int = 12) -> Path:
    """Write a PNG, 1200 to 1450 px wide, of the first `max_rows` edits rows, and return its path.

    A failed edit (usable False), and one whose pictures do not agree, is a band with its reason. Rows left out are counted in the head line.
    Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("no edits: a contact sheet wants at least one edits row.")
    shown = rows[:max_rows]
    bands = [_band(row, i + 1) for i, row in enumerate(shown)]
    width = max([1200, *(band.width for band in bands)])
    sheet = Image.new("RGB", (width, _HEAD_PX + sum(band.height + _GAP_PX for band in bands)), _PAPER)
    head = f"{title + ': ' if title else ''}{len(shown)} of {len(rows)} edits; first, middle and last frame"
    ImageDraw.Draw(sheet).text((_GAP_PX, 10), head, fill=_INK, font=font(18))
    top = _HEAD_PX
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height + _GAP_PX
    path = Path(path)
    sheet.save(path, format="PNG")
    return path


def _band(row: Mapping[str, Any], number: int) -> Image.Image:
    label = f"{number}  clip {row['clip_key']}  {_one_line(str(row.get('prompt') or ''), 110)}"
    if not row["usable"]:
        return _said(label, f"edit failed: {row.get('reason') or 'no reason given'}")
    try:
        frames = edit_frames(row)
    except (ValueError, OSError) as error:
        return _said(label, f"edit cannot be shown: {error}")
    count, _, height, width = frames["source"].shape
    picks = sorted({0, count // 2, count - 1})
    tile_w, tile_h = _tile(width, height)
    band = Image.new("RGB", (_GUTTER_PX + len(COLUMNS) * (tile_w + _GAP_PX), _BAND_TITLE_PX + 22 + len(picks) * (tile_h + _GAP_PX)), _PAPER)
    draw = ImageDraw.Draw(band)
    draw.text((_GAP_PX, 6), label, fill=_INK, font=font(16))
    videos = {"source": frames["source"], "mask (tinted)": tinted(frames["source"], frames["mask"]), "raw edit": frames["raw"]}
    videos["composited"] = frames["composited"]
    for column, name in enumerate(COLUMNS):
        left = _GUTTER_PX + column * (tile_w + _GAP_PX)
        draw.text((left, _BAND_TITLE_PX), name, fill=_PALE, font=font(14))
        for line, frame in enumerate(picks):
            top = _BAND_TITLE_PX + 22 + line * (tile_h + _GAP_PX)
            if column == 0:
                draw.text((_GAP_PX, top + 4), f"frame {frame}", fill=_PALE, font=font(14))
            if name == "reference":
                if line == 0:
                    band.paste(fitted(frames["reference"], tile_w, tile_h), (left, top))
                continue
            band.paste(scaled(to_image(videos[name][frame]), tile_w, tile_h), (left, top))
    return band


def _tile(width: int, height: int) -> tuple[int, int]:
    """Tile size: the frame times a whole number where it is small, else shrunk to a fifth of the page."""
    room = (_PAGE_PX - _GUTTER_PX) // len(COLUMNS) - _GAP_PX
    factor: float = room // width if width <= room else room / width
    return round(width * factor), round(height * factor)


def _said(label: str, reason: str) -> Image.Image:
    band = Image.new("RGB", (1200, 64), _PAPER)
    draw = ImageDraw.Draw(band)
    draw.text((_GAP_PX, 6), label, fill=_INK, font=font(16))
    draw.text((_GUTTER_PX, 34), _one_line(reason, 150), fill=_ALARM, font=font(14))
    return band


def _one_line(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
