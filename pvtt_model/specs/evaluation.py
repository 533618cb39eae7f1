"""How edits are judged, and what a stage has to reach."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pvtt_model.specs.base import Added, Execution, Share, Spec
from pvtt_model.specs.models import ModelSpec

#: Metrics that are taken only where a stage asks for them: they cost a pass over the frames, or mean something on real footage alone.
MoreMetrics = Literal["flicker", "dynamic_degree", "structure_distance", "edit_direction"]


class EvalSpec(Spec):
    """The extractors of product similarity. A stand-in's numbers carry its name."""

    clip: ModelSpec
    dino: ModelSpec
    judge: ModelSpec | None = Field(default=None, description="image encoder of identity_top1, independent of the one that conditions the adapter")
    candidates: Annotated[int, Field(ge=2)] = Field(default=20, description="products among which the judge has to find the right one")
    crop_margin: Share = Field(default=0.1, description="margin round the mask's box, share of its side")
    flow: ModelSpec | None = Added(None, description="optical flow of warp_error, e.g. raft-large; null: the metric is left out")
    lpips: ModelSpec | None = Added(None, description="network of bg_lpips, e.g. lpips-alex; null: the metric is left out")
    fvd: ModelSpec | None = Added(None, description="video network of fvd, e.g. i3d; null: fvd is not measured")
    fid: ModelSpec | None = Added(None, description="image network of fid a frame, e.g. fid-inception; null: fid is not measured")
    more: tuple[MoreMetrics, ...] = Added((), description="further metrics by name; structure_distance reads `dino`, edit_direction `clip`")

    def models(self) -> dict[str, ModelSpec]:
        """Field -> the network it names, of those that are named."""
        every = {name: getattr(self, name) for name in ("clip", "dino", "judge", "flow", "lpips", "fvd", "fid")}
        return {name: model for name, model in every.items() if model is not None}


class Threshold(Spec):
    """One line of a gate, e.g. clip_i > 0.75. A metric that the report does not hold fails."""

    metric: str
    op: Literal[">", ">=", "<", "<="]
    value: float
    bound: Literal["mean", "low", "high", "safe"] = Added(
        "mean", description="what is held against the value: the mean, an end of its 95 % interval, or the end that is harder to pass"
    )


class GateSpec(Spec):
    thresholds: tuple[Threshold, ...]
    on_failure: Literal["stop", "continue", "ask"] = Execution("stop")
