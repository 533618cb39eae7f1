"""The contact sheet where the right edit is known: blocks of lines source, mask, reference, edit, truth; three frames a line.

About 1800 px wide, so that it can be read at half that (a README's width). The edit is the raw one: what the model made, background and all.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from pvtt_model.evaluation.frames import edit_frames
from pvtt_model.evaluation.pictures import ALARM, INK, PALE, PAPER, fitted, font, letterboxed, one_line, tinted, to_image

MOST_BLOCKS = 8
LINES = ("source", "mask", "reference", "edit", "truth")
_PAGE_PX, _MARGIN_PX, _GAP_PX, _LABELS_PX, _HEAD_PX = 1800, 16, 4, 112, 56
_TITLE_PX, _BETWEEN_PX, _FRAMES = 34, 24, 3


class _Layout(NamedTuple):
    across: int  # blocks side by side
    tile_w: int
    tile_h: int

    @property
    def block_px(self) -> tuple[int, int]:
        return _FRAMES * (self.tile_w + _GAP_PX), _TITLE_PX + len(LINES) * (self.tile_h + _GAP_PX)


def truth_sheet(rows: Sequence[Mapping[str, Any]], head: str) -> Image.Image:
    """At most MOST_BLOCKS edits. One that failed is a block with its reason; one whose truth is not known has that line empty."""
    layout = _layout(rows)
    blocks = [_block(row, i + 1, layout) for i, row in enumerate(rows[:MOST_BLOCKS])]
    width, height = layout.block_px
    lines = -(-len(blocks) // layout.across)
    page = _LABELS_PX + 2 * _MARGIN_PX + layout.across * (width + _BETWEEN_PX) - _BETWEEN_PX
    sheet = Image.new("RGB", (page, _HEAD_PX + lines * (height + _BETWEEN_PX)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, 12), head, fill=INK, font=font(26))
    for i, block in enumerate(blocks):
        top = _HEAD_PX + i // layout.across * (height + _BETWEEN_PX)
        sheet.paste(block, (_MARGIN_PX + _LABELS_PX + i % layout.across * (width + _BETWEEN_PX), top))
        if i % layout.across == 0:
            for line, name in enumerate(LINES):
                draw.text((_MARGIN_PX, _line_top(line, layout) + top + layout.tile_h // 2 - 13), name, fill=PALE, font=font(21))
    return sheet


def _layout(rows: Sequence[Mapping[str, Any]]) -> _Layout:
    """Four blocks side by side of frames about square, two of wide ones; small frames enlarged by a whole number.

    A tile has the aspect of what holds a frame of every edit: clips of several buckets are letterboxed in it.
    """
    sizes = [size for row in rows if (size := _size(row))] or [(64, 64)]
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    across = 4 if width <= 1.3 * height else 2
    room = (_PAGE_PX - 2 * _MARGIN_PX - _LABELS_PX - (across - 1) * _BETWEEN_PX) // (_FRAMES * across) - _GAP_PX
    tile_w = width * round(room / width) if room > width else room
    return _Layout(across, tile_w, round(tile_w * height / width))


def _size(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of the edit's first frame; None where it has none."""
    try:
        with Image.open(io.BytesIO(row["source"][0])) as frame:
            return frame.size
    except (IndexError, OSError):
        return None


def _line_top(line: int, layout: _Layout) -> int:
    return _TITLE_PX + line * (layout.tile_h + _GAP_PX)


def _block(row: Mapping[str, Any], number: int, layout: _Layout) -> Image.Image:
    block = Image.new("RGB", layout.block_px, PAPER)
    draw = ImageDraw.Draw(block)
    draw.text((0, 2), f"{number}  {one_line(str(row['clip_key']), 20)}", fill=INK, font=font(20))
    if not row["usable"]:
        return _said(block, f"edit failed: {row.get('reason') or 'no reason given'}")
    try:
        frames = edit_frames(row, ("truth",))
    except (ValueError, OSError) as error:
        return _said(block, f"edit cannot be shown: {error}")
    count, step = len(frames["source"]), layout.tile_w + _GAP_PX
    videos = {"source": frames["source"], "mask": tinted(frames["source"], frames["mask"]), "edit": frames["raw"], "truth": frames.get("truth")}
    for line, name in enumerate(LINES):
        top = _line_top(line, layout)
        if name == "reference":
            block.paste(fitted(frames["reference"], layout.tile_w, layout.tile_h), (0, top))
            _words(draw, str(row.get("prompt") or ""), (step + 6, top), (2 * layout.tile_w, layout.tile_h), 20, PALE)
            continue
        video = videos[name]
        if video is None:
            draw.text((0, top + layout.tile_h // 2 - 13), "not known", fill=PALE, font=font(21))
            continue
        for i, frame in enumerate(sorted({0, count // 2, count - 1})):
            block.paste(letterboxed(to_image(video[frame]), layout.tile_w, layout.tile_h), (i * step, top))
    return block


def _said(block: Image.Image, reason: str) -> Image.Image:
    _words(ImageDraw.Draw(block), reason, (0, _TITLE_PX), (block.width, block.height - _TITLE_PX), 21, ALARM)
    return block


def _words(draw: ImageDraw.ImageDraw, text: str, at: tuple[int, int], room: tuple[int, int], size: int, colour: tuple[int, int, int]) -> None:
    """Wrapped, as many lines as fit."""
    lines = textwrap.wrap(one_line(text, 400), max(8, int(room[0] / (0.52 * size))))
    most = max(1, room[1] // (size + 5))
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]
    for i, line in enumerate(lines):
        draw.text((at[0], at[1] + i * (size + 5)), line, fill=colour, font=font(size))
