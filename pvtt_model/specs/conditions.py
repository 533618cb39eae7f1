"""What is embedded of a clip's words and reference pictures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pvtt_model.specs.base import Added, Positive, Share, Spec
from pvtt_model.specs.models import ModelSpec


class AugmentSpec(Spec):
    """How a reference picture's variants differ from it (the survey's 10.6). The defaults keep logos and brand colours as they are."""

    seed: int = 0
    crop: Annotated[float, Field(ge=0, lt=0.5)] = Field(default=0.06, description="most that is cut off a side, share of it")
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.2, description="most that the picture shrinks within its frame, share of its size")
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 6.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.1
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.1
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.0, description="share of the colour circle either way; another hue is another product"
    )
    mirror: Share = Field(default=0.0, description="share of variants turned left to right, which mirrors logos")


class ConditionSpec(Spec):
    """Frozen text and image embeddings."""

    product_words: Literal["keep", "hide"] = Field(
        default="keep", description="hide: the manifest's metadata.product_words become 'product' in the prompt, so that identity is the reference's"
    )

    text_encoder: ModelSpec
    max_text_tokens: Positive = 512
    image_encoder: ModelSpec
    image_size: Positive = Field(default=224, description="side of the letterboxed reference, pixels")
    reference_variants: Positive = Field(default=1, description="of each reference picture of a training clip: as it is, and augmented ones")
    augment: AugmentSpec = AugmentSpec()
    clip_encoder: ModelSpec | None = Added(
        None, description="a CLIP whose tokens and embedding of each reference picture are kept beside the image encoder's; null: none"
    )
    class_tokens: bool = Added(
        False, description="keep the image encoder's class token of each reference picture beside its patch tokens; the injection ip_adapter reads it"
    )
    captions: tuple[str, ...] = Added(
        (),
        description="sources of metadata.captions, the preferred first, e.g. ['human', 'qwen2.5-vl-7b']; a model without its @revision is any "
        "revision of it. A clip that has none of them falls back on its text_prompt; empty takes that of all clips",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
