"""What is encoded of a clip's frames."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pvtt_model.specs.base import Added, Positive, Share, Spec
from pvtt_model.specs.masks import MaskPolicy
from pvtt_model.specs.models import ModelSpec
from pvtt_model.specs.video import VideoSpec


class VideoAugmentSpec(Spec):
    """How a clip's variants in time differ from it (the survey's 10.6): see pvtt_model.curation.video_variants."""

    seed: int = 0
    offset_s: Annotated[float, Field(ge=0)] = Field(default=1.0, description="most that a variant begins before or after the clip, seconds")
    rate_jitter: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1,
        description="most that the rate at which frames are taken differs, share of it; never above the file's own, where frames would repeat",
    )


class LatentSpec(Spec):
    """VAE latents of the clip and of VACE's two halves: inactive (kept background) and reactive (to be made)."""

    video: VideoSpec = VideoSpec()
    vae: ModelSpec
    mask_policy: MaskPolicy = MaskPolicy()
    fill: Literal["neutral", "black", "original", "scaled"] = Field(
        default="neutral",
        description="what stands inside the mask, in normalised space: 0, -1, the source's pixels x, or those drawn to neutral, fill_scale * x",
    )
    fill_scale: Share = Field(default=0.5, description="of the fill 'scaled' alone: 0 is neutral, 1 original; the old product shines through between")
    variants: Positive = Field(default=1, description="contexts a clip: the first by the policy as it is, for editing; all of them for training")
    video_variants: Positive = Added(
        1,
        description="of a training clip whose mask is the manifest's: the clip as it is, and other frames of its shot; fewer where it is short",
    )
    augment_video: VideoAugmentSpec = Added(VideoAugmentSpec())
    references: Literal["none", "white", "own"] = Added(
        "none",
        description="the reference pictures as VACE takes them, through the VAE: letterboxed to the video's size on white, as diffusers does, or on "
        "their own border's colour, on which alpha is laid too; none: they are not encoded",
    )
    first_frame: bool = Added(
        False, description="the first frame and grey after it, through the VAE: the context that an image-to-video backbone starts from"
    )
    first_frame_clip: ModelSpec | None = Added(
        None, description="the CLIP whose tokens of the first frame, cut to a square, Wan2.1's image-to-video backbones read; null: none"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"

    @model_validator(mode="after")
    def _tokens_are_of_the_first_frame(self) -> LatentSpec:
        if self.first_frame_clip and not self.first_frame:
            raise ValueError("latents.first_frame_clip is set and first_frame is not; none reads it alone. Set latents.first_frame=true.")
        return self
