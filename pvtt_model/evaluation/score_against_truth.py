"""Scores of one edit against the right answer: the right edit's pixels, where the world knows it, and the right product, where there is a judge.

Each stands beside the same measure of other videos of the same clip, so that a figure is read in its context (context_table.py):
no suffix: the raw edit; _composited; _base: the backbone before training; _no_reference and _wrong_reference: the teacher without and with
another product's pictures; _source: nothing changed; _pasted: the reference pasted in; _flat: mid grey; _ceiling: the right edit
through the VAE; _truth: the right edit itself. A video that was not made (EditSpec.baselines) has no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pvtt_model.evaluation.gallery import Candidates, Gallery, choose_candidates
from pvtt_model.evaluation.identity import shown_products
from pvtt_model.evaluation.in_product_psnr import flat_grey, in_product_psnr_db
from pvtt_model.evaluation.psnr import CAP_DB, psnr_db
from pvtt_model.evaluation.edit_scores import Score, measure
from pvtt_model.evaluation.similarity import ImageExtractor
from pvtt_model.specs import EvalSpec

PSNR, IDENTITY, WRONG_SHOWN = "in_product_psnr_db", "identity_top1", "identity_wrong_reference_shown"
_PSNR_NOTE = f"dB inside the right edit's product, pooled over frames; capped at {CAP_DB:g}"

#: suffix -> video. The first is what is judged, the others are its context.
_PSNR_VIDEOS = {
    "": "raw",
    "_composited": "composited",
    "_base": "base",
    "_no_reference": "no_reference",
    "_wrong_reference": "wrong_reference",
    "_source": "source",
    "_pasted": "pasted",
    "_flat": "flat",
    "_ceiling": "truth_round_trip",
}
_IDENTITY_VIDEOS = {
    "": "raw",
    "_truth": "truth",
    "_base": "base",
    "_no_reference": "no_reference",
    "_source": "source",
    "_pasted": "pasted",
    "_wrong_reference": "wrong_reference",
}


def truth_scores(frames: Mapping[str, Tensor]) -> list[Score]:
    """vae_psnr_db, and where the right edit is known in_product_psnr_db with its context. frames: of edit_frames, and 'pasted'."""
    note = "whole frame; the most that an edit on latents can reach"
    if "truth" not in frames:
        return [measure("vae_psnr_db", "context", f"the source through the VAE, {note}", psnr_db, frames["round_trip"], frames["source"])]
    truth, where = frames["truth"], frames["truth_mask"]
    found = []
    if "truth_round_trip" in frames:
        found.append(measure("vae_psnr_db", "context", f"the right edit through the VAE, {note}", psnr_db, frames["truth_round_trip"], truth))
    videos = {**frames, "flat": flat_grey(frames["source"], frames["mask"])}
    for suffix, video in _PSNR_VIDEOS.items():
        if video in videos:
            found.append(
                measure(PSNR + suffix, "context" if suffix else "higher", _PSNR_NOTE, in_product_psnr_db, videos[video], truth, where),
            )
    return found


def identity_scores(
    row: Mapping[str, Any], frames: Mapping[str, Tensor], spec: EvalSpec, judge: ImageExtractor, gallery: Gallery | None
) -> list[Score]:
    """identity_top1 and its context, named with the judge's name: 1 where the video shows the right product most of all candidates, else 0."""
    videos = {video: frames[video] for video in _IDENTITY_VIDEOS.values() if video in frames}
    wrong = row.get("wrong_product_id") if "wrong_reference" in frames else None
    try:
        candidates = _candidates(row, wrong, spec, gallery)
        assert gallery is not None
        shown = shown_products(judge, videos, frames["mask"], gallery, candidates)
    except ValueError as error:
        return [Score(name=judged_name(IDENTITY, judge.name), value=None, direction="higher", extractor=judge.name, note=str(error))]
    fewer = "" if len(candidates.products) == spec.candidates else f" ({spec.candidates} asked for)"
    note = f"nearest of {len(candidates.products)} products{fewer}, {candidates.look_alikes} of them look-alikes of the right one"
    found = []
    for suffix, video in _IDENTITY_VIDEOS.items():
        if video in shown:
            value = float(shown[video] == row["product_id"])
            found.append(_score(IDENTITY + suffix, value, note, judge, judged=not suffix))
    if "wrong_reference" in shown and wrong in candidates.products:
        found.append(_score(WRONG_SHOWN, float(shown["wrong_reference"] == wrong), note, judge, judged=False))
    return found


def judged_name(metric: str, judge_name: str) -> str:
    """No judge is published, so every one's number carries its name: identity_top1[nano-judge]. A gate may leave the bracket out."""
    return f"{metric}[{judge_name.split(' (')[0]}]"


def _candidates(row: Mapping[str, Any], wrong: str | None, spec: EvalSpec, gallery: Gallery | None) -> Candidates:
    if gallery is None:
        raise ValueError("no gallery of products was given to the judge.")
    if not row.get("product_id"):
        raise ValueError("the edit's row does not name its product. Run the editing again.")
    return choose_candidates(gallery.look_alikes, str(row["clip_key"]), str(row["product_id"]), wrong, spec.candidates)


def _score(name: str, value: float, note: str, judge: ImageExtractor, judged: bool) -> Score:
    return Score(name=judged_name(name, judge.name), value=value, direction="higher" if judged else "context", extractor=judge.name, note=note)
