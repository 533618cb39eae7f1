"""The survey's weighted score of a stage (9.6): one figure, 0 to 1, higher is better, to hold stages against one another.

    product identity   clip_i 30 %  goal > 0.85,  dino_i 20 %  goal > 0.50
    video quality      fvd 15 %  goal < 100
    time               frame_ssim_raw 15 %  goal > 0.90
    background         bg_psnr_db 10 %  goal > 30 dB,  bg_ssim 5 %  goal > 0.90
    text               clip_t 5 %  goal > 0.25

The survey gives goals and weights, not how values become shares; ours: mean / goal, and goal / mean for fvd, each clipped to [0, 1], so that
1 is a goal met and nothing is earned beyond. A part that was not measured is left out and the other weights are scaled up to 100 %; the
note says which. With an extractor that stands in for the published one the name carries a bracket, weighted_score[nano]: the
goals are of the published ones, so that figure orders the stages of one recipe and says nothing beside another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pvtt_model.evaluation.edit_scores import first_of, suffixed
from pvtt_model.evaluation.psnr import CAP_DB

NAME = "weighted_score"


class Part(NamedTuple):
    metric: str
    weight: float  # share of the whole
    goal: float
    lower_is_better: bool = False


PARTS = (
    Part("clip_i", 0.30, 0.85),
    Part("dino_i", 0.20, 0.50),
    Part("fvd", 0.15, 100.0, lower_is_better=True),
    Part("frame_ssim_raw", 0.15, 0.90),
    Part("bg_psnr_db", 0.10, 30.0),
    Part("bg_ssim", 0.05, 0.90),
    Part("clip_t", 0.05, 0.25),
)


#: What a video that leaves the background as it is scores there: identical.
_UNTOUCHED = {"bg_psnr_db": CAP_DB, "bg_ssim": 1.0}


class Weighted(NamedTuple):
    name: str
    value: float
    note: str


def weighted_score(values: Mapping[str, float]) -> Weighted | None:
    """The score of a report's means by metric name, stand-ins in brackets; None where not one part was measured."""
    earned, weight, stand_ins, absent = 0.0, 0.0, [], []
    for part in PARTS:
        name = first_of(values, part.metric)
        if name is None:
            absent.append(f"{part.metric} ({part.weight:.0%})")
            continue
        stand_ins += [name.partition("[")[2].removesuffix("]")] if "[" in name else []
        earned += part.weight * share_of_goal(values[name], part)
        weight += part.weight
    if not weight:
        return None
    which = "" if not stand_ins else "[nano]" if all(n.startswith("nano") for n in stand_ins) else "[stand-in]"
    note = "survey 9.6: shares of the goals, weighted"
    note += f"; without {', '.join(absent)}, the other weights scaled up" if absent else ""
    note += f"; stand-ins: {', '.join(dict.fromkeys(stand_ins))}" if stand_ins else ""
    return Weighted(NAME + which, earned / weight, note)


def weighted_score_of(values: Mapping[str, float], suffix: str) -> Weighted | None:
    """The same of a baseline that changes at most the product: 'source' (nothing done), 'pasted' (the reference's picture pasted in). Without fvd.

    values: as weighted_score, with clip_i_source and the like. None where not one of them was measured.
    """
    own = {}
    for part in PARTS:
        stem = part.metric.removesuffix("_raw")
        name = first_of(values, f"{stem}_{suffix}")
        if name is not None:
            own[part.metric + "[" * ("[" in name) + name.partition("[")[2]] = values[name]
    found = weighted_score(own | _UNTOUCHED) if own else None
    if found is None:
        return None
    return Weighted(suffixed(found.name, f"_{suffix}"), found.value, f"{found.note}; background untouched by construction")


def share_of_goal(value: float, part: Part) -> float:
    """In [0, 1]: value / goal, or goal / value where lower is better (an fvd of 0 or less is a goal met)."""
    if part.lower_is_better:
        return 1.0 if value <= part.goal else part.goal / value
    return min(1.0, max(0.0, value / part.goal))
