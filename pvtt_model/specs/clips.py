"""Where clips come from, and which are accepted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pvtt_model.specs.base import Positive, Share, Spec


class NanoWorldSpec(Spec):
    """The procedural clips of pvtt_model.nano.world, used where no manifest is given. No product is in two splits."""

    num_clips: Positive = Field(default=24, description="training clips, each of a product of its own")
    num_validation: Annotated[int, Field(ge=0)] = 0
    num_eval: Annotated[int, Field(ge=2)] = Field(default=8, description="held-out clips, each with its ground-truth edit")
    look_alikes: Annotated[int, Field(ge=1)] = Field(default=8, description="held-out products that share their two colours with one another")
    references: Annotated[int, Field(ge=1, le=4)] = Field(default=2, description="reference pictures a product")
    width: Positive = 64
    height: Positive = 64
    num_frames: Positive = 5
    fps: Positive = 8
    seed: int = 0


class ClipSpec(Spec):
    """What is accepted from the manifest, and how it is packed. Refused lines are quarantined with their reason."""

    min_side_px: Positive = 32
    clips_per_shard: Positive = Field(default=64, description="lines a shard of new clips; shards that are there stay as they are")
    shots: Literal["refuse", "split", "ignore"] = Field(
        default="refuse",
        description="where the used frames hold a cut: refuse the clip; split: every shot of the video that is long enough is a clip; or ignore it",
    )
    shot_threshold: Annotated[float, Field(gt=0, le=255)] = Field(default=20.0, description="PySceneDetect's content value from which a cut is one")
    near_duplicate_bits: Annotated[float, Field(ge=0, le=16)] | None = Field(
        default=5.0,
        description="clips whose perceptual hashes differ by so many of 64 bits or fewer are near-duplicates; null: none are looked for",
    )
    eval_share: Share = Field(default=0.1, description="share of product identities held out for evaluation, by hash; at least one")
    allow_outside_root: bool = Field(default=False, description="allow absolute paths outside the manifest's folder")
    decode_timeout_s: float = Field(default=120.0, gt=0, description="a clip that takes longer is refused, so this decides what is in the data")

    @property
    def cut_value(self) -> float | None:
        """The content value from which a cut is one; None where cuts are ignored."""
        return None if self.shots == "ignore" else self.shot_threshold
