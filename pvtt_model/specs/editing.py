"""How edits are sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pvtt_model.specs.base import Added, Positive, Spec


class EditSpec(Spec):
    """Sampling of the edited videos.

    Guidance: uncond + scale (cond - uncond), so scale 1 is the plain conditional; the survey's w is scale - 1. Wan's default is 5.
    """

    num_steps: Positive = 50
    scheduler: Literal["unipc", "dpmpp", "flow_euler"] = "unipc"
    shift: Annotated[float, Field(gt=0)] = 16.0
    guidance_text: Annotated[float, Field(ge=0)] = 5.0
    guidance_text_low: Annotated[float, Field(ge=0)] | None = Added(
        None, description="guidance_text of the low-noise expert, diffusers' guidance_scale_2; null: guidance_text. Of two experts alone"
    )
    guidance_reference: Annotated[float, Field(ge=0)] = 2.0
    reference_scale: Annotated[float, Field(ge=0)] = Added(
        1.0, description="of what the reference adds in every layer that reads it; 1 as trained, 0: the reference is not read"
    )
    path_scales: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = Added(
        (1.0, 1.0), description="of the injection dual_path: times reference_scale, the scale of the image encoder's tokens and of CLIP's"
    )
    seed: int = 42
    clips: Literal["held_out", "all"] = Field(default="held_out", description="all: training clips too; the report then says so")
    max_clips: Positive = 199
    reference: Literal["own", "swap"] = Field(default="own", description="own: the clip's reference; swap: the next clip's, another product")
    background: Literal["generated", "blended"] = Field(
        default="generated", description="blended: at every step the latents outside the mask are the template's own; generated: the model's"
    )
    feather_px: Annotated[int, Field(ge=0)] = Field(default=4, description="width of the blend at the mask's edge in the composited output")
    colour_match: Literal["none", "ring", "background"] = Added(
        "none",
        description="the composited edit's colours matched to the source, a gain and an offset a channel, by the background near the mask "
        "(ring) or all of it; none: as they come",
    )
    window_overlap: Annotated[int, Field(ge=0)] | None = Added(
        None, description="frames that neighbouring windows of a video longer than the model's share; null: a quarter of the window"
    )
    baselines: tuple[Literal["base", "no_reference", "wrong_reference"], ...] = Field(
        default=(), description="also sampled from the same noise: the base without adapter and LoRA, the teacher without and with a wrong reference"
    )
