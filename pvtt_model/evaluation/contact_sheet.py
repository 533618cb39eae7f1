"""One picture of all edits: a band an edit; columns source, mask, reference, raw edit, composited; lines first, middle and last frame.

Where the right edit is known, truth_sheet.py's blocks instead: lines source, mask, reference, edit, truth, three frames each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from pvtt_model.evaluation.frames import edit_frames
from pvtt_model.evaluation.pictures import ALARM, INK, PALE, PAPER, fitted, font, one_line, scaled, tinted, to_image
from pvtt_model.evaluation.truth_sheet import MOST_BLOCKS, truth_sheet

COLUMNS = ("source", "mask (tinted)", "reference", "raw edit", "composited")
_PAGE_PX, _GAP_PX, _GUTTER_PX, _BAND_TITLE_PX, _HEAD_PX = 1400, 8, 76, 30, 40


def contact_sheet(rows: Sequence[Mapping[str, Any]], path: str | Path, *, title: str = "", max_rows: int = 12, total: int | None = None) -> Path:
    """Write a PNG of the first `max_rows` edits rows, 1200 to 1450 px wide (1800 where a truth is known, for a page of 900), and return its path.

    total: how many edits there are, where `rows` are not all. A failed edit (usable False), and one whose pictures do not agree, is a
    band with its reason. Rows left out are counted in the head line.
    Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("no edits: a contact sheet wants at least one edits row.")
    shown = rows[:max_rows]
    if any(row.get("truth") for row in shown):
        sheet = truth_sheet(shown, head_of(title, min(len(shown), MOST_BLOCKS), total or len(rows)))
        sheet.save(path, format="PNG")
        return Path(path)
    bands = [_band(row, i + 1) for i, row in enumerate(shown)]
    width = max([1200, *(band.width for band in bands)])
    sheet = Image.new("RGB", (width, _HEAD_PX + sum(band.height + _GAP_PX for band in bands)), PAPER)
    ImageDraw.Draw(sheet).text((_GAP_PX, 10), head_of(title, len(shown), total or len(rows)), fill=INK, font=font(18))
    top = _HEAD_PX
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height + _GAP_PX
    path = Path(path)
    sheet.save(path, format="PNG")
    return path


def head_of(title: str, shown: int, total: int) -> str:
    return f"{title + ': ' if title else ''}{shown} of {total} edits; first, middle and last frame"


def _band(row: Mapping[str, Any], number: int) -> Image.Image:
    label = f"{number}  clip {row['clip_key']}  {one_line(str(row.get('prompt') or ''), 110)}"
    if not row["usable"]:
        return _said(label, f"edit failed: {row.get('reason') or 'no reason given'}")
    try:
        frames = edit_frames(row)
    except (ValueError, OSError) as error:
        return _said(label, f"edit cannot be shown: {error}")
    count, _, height, width = frames["source"].shape
    picks = sorted({0, count // 2, count - 1})
    tile_w, tile_h = _tile(width, height)
    band = Image.new("RGB", (_GUTTER_PX + len(COLUMNS) * (tile_w + _GAP_PX), _BAND_TITLE_PX + 22 + len(picks) * (tile_h + _GAP_PX)), PAPER)
    draw = ImageDraw.Draw(band)
    draw.text((_GAP_PX, 6), label, fill=INK, font=font(16))
    videos = {"source": frames["source"], "mask (tinted)": tinted(frames["source"], frames["mask"]), "raw edit": frames["raw"]}
    videos["composited"] = frames["composited"]
    for column, name in enumerate(COLUMNS):
        left = _GUTTER_PX + column * (tile_w + _GAP_PX)
        draw.text((left, _BAND_TITLE_PX), name, fill=PALE, font=font(14))
        for line, frame in enumerate(picks):
            top = _BAND_TITLE_PX + 22 + line * (tile_h + _GAP_PX)
            if column == 0:
                draw.text((_GAP_PX, top + 4), f"frame {frame}", fill=PALE, font=font(14))
            if name == "reference":
                if line == 0:
                    band.paste(fitted(frames["reference"], tile_w, tile_h), (left, top))
                continue
            band.paste(scaled(to_image(videos[name][frame]), tile_w, tile_h), (left, top))
    return band


def _tile(width: int, height: int) -> tuple[int, int]:
    """Tile size: the frame times a whole number where it is small, else shrunk to a fifth of the page; a portrait one is no higher than that."""
    room, longer = (_PAGE_PX - _GUTTER_PX) // len(COLUMNS) - _GAP_PX, max(width, height)
    factor: float = room // longer if longer <= room else room / longer
    return round(width * factor), round(height * factor)


def _said(label: str, reason: str) -> Image.Image:
    band = Image.new("RGB", (1200, 64), PAPER)
    draw = ImageDraw.Draw(band)
    draw.text((_GAP_PX, 6), label, fill=INK, font=font(16))
    draw.text((_GUTTER_PX, 34), one_line(reason, 150), fill=ALARM, font=font(14))
    return band
