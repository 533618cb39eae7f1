"""FVD and FID of a stage: features of each edit where it is scored, moments of all of them where the report is made.

Real are the edits' own sources, made the raw edits; beside them `_ceiling`, the sources through the VAE and back, the least that an edit on latents
can reach. Features of one edit are a small file beside its scores, so a run that goes on scores nothing anew, and no video is held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from pvtt_model.evaluation.edit_scores import Metric, Score, suffixed
from pvtt_model.evaluation.fid import fid, frame_features
from pvtt_model.evaluation.frechet import Distance, Moments
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
    asked: list[tuple[str, str, Callable[[Tensor], Tensor]]] = []
    if networks.fvd is not None:
        asked.append(("fvd", networks.fvd.name, partial(video_features, networks.fvd)))
    if networks.fid is not None:
        asked.append(("fid", networks.fid.name, partial(frame_features, networks.fid)))
    for family, network, features in asked:
        try:
            found = {f"{family}.{name}": features(frames[video]).float().cpu().contiguous() for name, video in VIDEOS.items()}
            if not all(bool(rows.isfinite().all()) for rows in found.values()):
                raise ValueError(f"{network} gave features that are not finite. Check its weights and precision.")
        except ValueError as error:
            lacking.append(Score(name=family, value=None, direction="lower", extractor=network, note=str(error)))
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
    asked: list[tuple[str, Callable[[Moments, Moments], Distance]]] = []
    if spec.fvd is not None and networks.fvd is not None:
        asked.append(("fvd", partial(fvd, networks.fvd, spec.fvd)))
    if spec.fid is not None and networks.fid is not None:
        asked.append(("fid", partial(fid, networks.fid, spec.fid)))
    found, said = [], []
    for family, distance in asked:
        for suffix, side in (("", "made"), ("_ceiling", "ceiling")):
            try:
                real, made = moments[f"{family}.real"], moments[f"{family}.{side}"]
                of_set = distance(real, made)
            except (KeyError, ValueError) as error:
                reason = "no edit has features of it" if isinstance(error, KeyError) else str(error)
                said += [] if suffix else [f"{family} not measured: {reason}"]
                continue
            what = "videos" if family == "fvd" else f"frames of {videos[family]} videos"
            note = f"sources against {'VAE round trips' if suffix else 'raw edits'}, {of_set.n_made} {what}"
            found.append(
                Metric(
                    name=suffixed(of_set.name, suffix), value=of_set.value, std=0.0, n=videos[family], worst=None,
                    direction="context" if suffix else "lower", extractor=of_set.extractor, note=note, card=carded(family),
                )
            )  # fmt: skip
            said += [f"{of_set.name}: {of_set.warning}."] if of_set.warning and not suffix else []
    return found, said
