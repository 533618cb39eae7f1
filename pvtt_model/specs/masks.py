"""Masks: where they come from, what is believed of them, and how they are widened."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pvtt_model.specs.base import Added, Execution, Positive, Share, Spec
from pvtt_model.specs.models import ModelSpec


class MaskSpec(Spec):
    """Where a mask comes from and what is believed of it. Values above `threshold` (of 255) are product.

    A provider that has to find the product looks at the manifest's metadata.point or box; else for the reference picture, with image_encoder.
    """

    provider: Literal["given", "grabcut", "sam2"] = Field(
        default="given", description="given: the manifest's mask, and where it has none, when_missing; the others ask nobody's mask"
    )
    when_missing: Literal["grabcut", "sam2", "reject"] = "grabcut"
    sam2: ModelSpec | None = Field(
        default=None, description="SAM 2's video predictor, e.g. architecture 'sam2.1-hiera-b+', weights a .pt with sha256"
    )
    window_frames: Positive = Field(
        default=96, description="SAM 2 tracks so many frames, forgets them, and goes on from its last mask: memory is bounded by it"
    )
    image_encoder: ModelSpec | None = Field(
        default=None, description="finds the reference picture's product in the frames; None: grabcut believes in the centre, contrast and motion"
    )
    min_match: Annotated[float, Field(ge=-1, le=1)] = Field(
        default=-1.0,
        description="smallest believed cosine of frame 0's best cell and the reference, below which the clip is refused; -1 believes any",
    )
    rematch_every: Positive = Field(default=8, description="grabcut looks for the reference again every so many frames, which ends the flow's drift")
    threshold: Annotated[int, Field(ge=0, le=254)] = 127
    min_area: Share = Field(default=0.002, description="smallest believed mean share of the frame")
    max_area: Share = Field(default=0.8, description="largest believed mean share of the frame")
    compare: Literal["none", "given", "grabcut", "sam2"] = Field(
        default="none", description="a second provider, asked too: the row then says how far the two agree"
    )
    # What is shown as risky (mask_risk.py); nothing is made anew for another threshold.
    # Seen by teams on VACE at 832x480: 18 % and 10 px are fine, 37 % and 30 px are noise; the first two lie midway. The others are ours.
    risky_area: Share = Execution(0.275, description="a mean share of the frame above it predicts failure: the clip is flagged, not refused")
    risky_jitter: Share = Execution(0.042, description="so does jitter above this share of the frame's height: 20 px of 480")
    risky_temporal_iou: Share = Execution(0.6, description="so does a lower IoU of neighbouring frames' masks, one shift compensated")
    risky_agreement: Share = Execution(0.5, description="so does a lower IoU of the two providers")

    def risky(self) -> dict[str, float]:
        """The thresholds of risk, by their names."""
        return {name: getattr(self, name) for name in type(self).model_fields if name.startswith("risky_")}

    @property
    def finds_with_a_model(self) -> bool:
        """Whether a frozen model may be asked for a mask."""
        return "sam2" in (self.provider, self.when_missing, self.compare) or self.image_encoder is not None

    @model_validator(mode="after")
    def _sam2_is_named(self) -> MaskSpec:
        if "sam2" in (self.provider, self.when_missing, self.compare) and self.sam2 is None:
            raise ValueError(
                "masks are to be made by sam2, but masks.sam2 names no model. Set masks.sam2.architecture and .weights, or use 'grabcut'."
            )
        return self


class MaskPolicy(Spec):
    """How the mask is widened before the model sees it: a precise mask keeps the old product's silhouette, a box replaces it."""

    kind: Literal["precise", "grow", "blocks", "box", "square", "full"] = "grow"
    grow_px: Annotated[int, Field(ge=0)] = Field(default=8, description="radius for grow; block side for blocks; margin for box and square")
    jitter_px: Annotated[int, Field(ge=0)] = Field(
        default=0, description="training's augmentation: each further variant of a mask is grown and moved by up to so much"
    )
    erode_px: Annotated[int, Field(ge=0)] = Added(
        0,
        description="and grown by up to so much less than grow_px (precise: than 0). Up to grow_px that uncovers nothing; what goes beyond erodes "
        "the product's own mask, so that training sees the rim of the old product. Without effect for blocks and full",
    )
