"""Scores of one edit that only some stages ask for: EvalSpec.flow, EvalSpec.lpips, EvalSpec.more. Frames come decoded once, from score.py.

Each stands beside the source's own value (_source) or the VAE's round trip (_ceiling), by which it is to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from pvtt_model.backbones.flow import FlowModel
from pvtt_model.backbones.perceptual import PerceptualModel
from pvtt_model.evaluation.background_lpips import background_lpips
from pvtt_model.evaluation.dynamic_degree import dynamic_degree
from pvtt_model.evaluation.edit_direction import edit_direction
from pvtt_model.evaluation.flicker import added_flicker, temporal_flicker
from pvtt_model.evaluation.edit_scores import Direction, Score, measure
from pvtt_model.evaluation.similarity import ClipExtractor, metric_name
from pvtt_model.evaluation.structure_distance import structure_distance
from pvtt_model.evaluation.warp_error import MOTION_FLOOR_PX, warp_error
from pvtt_model.specs import EvalSpec, ModelSpec


class Networks(NamedTuple):
    """What these metrics want beside CLIP and DINO; None: left out."""

    flow: FlowModel | None = None
    lpips: PerceptualModel | None = None


NONE = Networks()

#: suffix, video, which way counts; of metrics that read one video, and of those that hold one against the source.
_ALONE: tuple[tuple[str, str, bool], ...] = (("", "raw", True), ("_composited", "composited", True), ("_source", "source", False))
_AGAINST: tuple[tuple[str, str, bool], ...] = (("", "raw", True), ("_composited", "composited", True), ("_ceiling", "round_trip", False))


def more_scores(
    row: Mapping[str, Any], frames: Mapping[str, Tensor], spec: EvalSpec, clip: ClipExtractor, dino: Any, networks: Networks
) -> list[Score]:
    """What `spec` asks for beyond the default, by name. frames: of edit_frames."""
    found: list[Score] = []
    source, mask = frames["source"], frames["mask"]
    if spec.flow is not None and networks.flow is not None:
        found += _warp_errors(frames, networks.flow, spec.flow)
    if spec.lpips is not None and networks.lpips is not None:
        lpips = networks.lpips
        found += _named("bg_lpips", "bg_lpips", lpips.name, spec.lpips, "lower", "outside the mask; read beside the ceiling", _AGAINST, frames,
                        lambda video: background_lpips(lpips, video, source, mask))  # fmt: skip
    if "flicker" in spec.more:
        found += _plain("temporal_flicker", "higher", "1 - mean |difference| / 255; a frozen video scores 1", _ALONE, frames, temporal_flicker)
        found += _plain("added_flicker", "lower", "change between frames beyond the source's, outside the mask", _AGAINST, frames,
                        lambda video: added_flicker(video, source, mask))  # fmt: skip
    if "dynamic_degree" in spec.more:
        found += _plain("dynamic_degree", "context", "Farneback flow, px a frame; should be near the source's", _ALONE, frames, dynamic_degree)
    if "structure_distance" in spec.more:
        found += _named("structure_distance", "structure_distance", dino.name, spec.dino, "lower", "whole frame", _AGAINST, frames,
                        lambda video: structure_distance(dino, video, source))  # fmt: skip
    if "edit_direction" in spec.more:
        said, wanted = str(row.get("source_prompt") or ""), str(row.get("prompt") or "")
        found += _named("edit_direction", "edit_direction", clip.name, spec.clip, "higher", "change of picture with change of prompt", _AGAINST[:2],
                        frames, lambda video: edit_direction(clip, video, source, said, wanted))  # fmt: skip
    return found


def _plain(
    name: str,
    direction: Direction,
    note: str,
    videos: tuple[tuple[str, str, bool], ...],
    frames: Mapping[str, Tensor],
    metric: Callable[[Tensor], float],
) -> list[Score]:
    return [measure(name + suffix, direction if counts else "context", note, metric, frames[video]) for suffix, video, counts in videos]


def _named(
    name: str,
    family: str,
    extractor: str,
    model: ModelSpec,
    direction: Direction,
    note: str,
    videos: tuple[tuple[str, str, bool], ...],
    frames: Mapping[str, Tensor],
    metric: Callable[[Tensor], float],
) -> list[Score]:
    """As _plain, the extractor recorded, and its name in the metric's where it is a stand-in."""
    found = _plain(name, direction, note, videos, frames, metric)
    return [s.model_copy(update={"name": metric_name(s.name, family, extractor, model), "extractor": extractor}) for s in found]


def _warp_errors(frames: Mapping[str, Tensor], network: FlowModel, model: ModelSpec) -> list[Score]:
    found = []
    for suffix, video, counts in _ALONE:
        name = metric_name("warp_error" + suffix, "warp_error", network.name, model)
        try:
            error = warp_error(network, frames[video])
        except ValueError as reason:
            found.append(Score(name=name, value=None, direction="lower", extractor=network.name, note=str(reason)))
            continue
        note = "visible pixels, flow there and back agreeing"
        if error.is_near_static:
            note += f"; near-static: the flow is under {MOTION_FLOOR_PX:g} px a frame, so a low error says nothing"
        found.append(Score(name=name, value=error.value, direction="lower" if counts else "context", extractor=network.name, note=note))
    return found
