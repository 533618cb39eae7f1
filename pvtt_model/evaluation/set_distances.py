"""FVD and FID of a stage: features of each edit where it is scored, moments of all of them where the report is made.

Real are the edits' own sources, made the raw edits; beside them `_ceiling`, the sources through the VAE and back, the least that an edit on latents
can reach. Features of one edit are a small file beside its scores, so a run that goes on scores nothing anew, and no video is held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pvtt_model.evaluation.edit_scores import Metric, Score
from pvtt_model.evaluation.fid import fid, frame_features
from pvtt_model.evaluation.frechet import Moments
from pvtt_model.evaluation.fvd import fvd, video_features
from pvtt_model.evaluation.metric_cards import carded
from pvtt_model.evaluation.score_more import Networks
from pvtt_model.specs import EvalSpec

VIDEOS = {"real": "source", "made": "raw", "ceiling": "round_trip"}


@torch.no_grad()
def set_features(frames: Mapping[str, Tensor], networks: Networks, into: dict[str, Tensor]) -> list[Score]:
    """fvd.real, fvd.made, fvd.ceiling (1, D) and fid.* (T, D), float32, of one edit (frames: of edit_frames), where they are asked for.

    The scores, without value, say why a network could not take the videos (too few frames).
    """
    lacking = []
    for family, network, features in (("fvd", networks.fvd, video_features), ("fid", networks.fid, frame_features)):
        if network is None:
            continue
        try:
            found = {f"{family}.{name}": features(network, frames[video]).float().cpu().contiguous() for name, video in VIDEOS.items()}  # type: ignore[arg-type]
            if not all(bool(rows.isfinite().all()) for rows in found.values()):
                raise ValueError(f"{network.name} gave features that are not finite. Check its weights and precision.")
        except ValueError as error:
            lacking.append(Score(name=family, value=None, direction="lower", extractor=network.name, note=str(error)))
            continue
        into.update(found)
    return lacking


def set_distances(features: Iterable[Mapping[str, Tensor]], spec: EvalSpec, networks: Networks) -> tuple[list[Metric], list[str]]:
    """The distances as metrics of the whole set, and what is to be said of them. features: of each edit; one is held at a time."""
    moments: dict[str, Moments] = {}
    videos: Counter[str] = Counter()
    for of_edit in features:
        videos.update({name.partition(".")[0] for name in of_edit})
        for name, rows in of_edit.items():
            moments.setdefault(name, Moments(rows.shape[1])).add(rows)
    found, said = [], []
    for family, model, network, distance in (("fvd", spec.fvd, networks.fvd, fvd), ("fid", spec.fid, networks.fid, fid)):
        if model is None or network is None:
            continue
        for suffix, side in (("", "made"), ("_ceiling", "ceiling")):
            try:
                real, made = moments[f"{family}.real"], moments[f"{family}.{side}"]
                of_set = distance(network, model, real, made)  # type: ignore[arg-type]
            except (KeyError, ValueError) as error:
                reason = "no edit has features of it" if isinstance(error, KeyError) else str(error)
                said += [] if suffix else [f"{family} not measured: {reason}"]
                continue
            what = "videos" if family == "fvd" else f"frames of {videos[family]} videos"
            note = f"sources against {'VAE round trips' if suffix else 'raw edits'}, {of_set.n_made} {what}"
            name, bracket, rest = of_set.name.partition("[")
            found.append(
                Metric(
                    name=f"{name}{suffix}{bracket}{rest}", value=of_set.value, std=0.0, n=videos[family], worst=None,
                    direction="context" if suffix else "lower", extractor=of_set.extractor, note=note, card=carded(family),
                )
            )  # fmt: skip
            said += [f"{of_set.name}: {of_set.warning}."] if of_set.warning and not suffix else []
    return found, said
