"""Edits with the weights just trained, to look at while a stage trains: few clips, the same noise each time, by editing.edit's own function."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.editing.edit import Row, edit_clip
from pvtt_model.specs import LatentSpec, StageSpec
from pvtt_model.training.teacher import Teacher

FRAMES = 3  # of a clip: the first, one in the middle, the last
PANELS = ("template", "mask", "edit", "reference")
GAP = 4
BACKGROUND = (24, 24, 27)


class SampleEdits(NamedTuple):
    """What edits are made of, but for the teacher. clips: of each edit the template's rows and those of the clip whose product goes in, as
    edit_clip takes them."""

    clips: Sequence[tuple[dict[str, Row], dict[str, Row]]]
    vae: VideoAutoencoder
    empty_text_LD: Tensor
    latents: LatentSpec
    max_text_tokens: int
    product_hidden: bool

    def make(self, teacher: Teacher, stage: StageSpec) -> list[Row]:
        """The edits' rows; one that failed is unusable and says why. Under ZeRO-3 every rank must call it with the same clips."""
        edit = stage.edit.model_copy(update={"baselines": (), "num_steps": stage.train.sample_steps or stage.edit.num_steps})
        return [
            edit_clip(
                teacher, self.vae, template, reference, self.empty_text_LD, edit, self.latents, self.max_text_tokens,
                product_hidden=self.product_hidden,
            )
            for template, reference in self.clips
        ]  # fmt: skip


def strip_png(row: dict[str, Any]) -> bytes:
    """The picture of an edits row: PANELS beside each other, its first, middle and last frame below each other; the reference once."""
    count = len(row["source"])
    shown = sorted({0, count // 2, count - 1})[:FRAMES]
    columns = [[_opened(row[name][i]) for i in shown] for name in ("source", "mask", "composited")]
    width, height = columns[0][0].size
    canvas = Image.new("RGB", (len(PANELS) * (width + GAP) - GAP, len(shown) * (height + GAP) - GAP), BACKGROUND)
    for x, column in enumerate(columns):
        for y, picture in enumerate(column):
            canvas.paste(picture.resize((width, height)), (x * (width + GAP), y * (height + GAP)))
    reference = _opened(row["reference"])
    reference.thumbnail((width, height))
    canvas.paste(reference, (3 * (width + GAP), 0))
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()


def _opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")
