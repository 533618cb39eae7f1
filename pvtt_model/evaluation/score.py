"""All metrics of one edit, by name.

Three videos of an edit are measured: raw (what the model made), composited (raw inside the feathered mask, source
outside) and, for the background, the ceiling (the source through the VAE and back, about the best that an edit on latents can do).
A bare background name is the raw one: `bg_psnr_db` is `bg_psnr_raw_db`, what a gate of the survey means; compositing would make it pass
whatever the model does. `*_source` stands beside for comparison: with the clip's own reference clip_i_source is what the real product
scores, with a swapped one it is what the old product scores, and an edit that does not beat it did not change the product.
The metrics that ask for the right answer, which edit or which product it should be, are in score_against_truth.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pvtt_model.evaluation.background_psnr import CAP_DB, background_psnr_db
from pvtt_model.evaluation.background_ssim import background_ssim
from pvtt_model.evaluation.crops import crop_rule
from pvtt_model.evaluation.frame_ssim import frame_motion, frame_ssim
from pvtt_model.evaluation.frames import OPTIONAL_VIDEOS, edit_frames
from pvtt_model.evaluation.gallery import Gallery
from pvtt_model.evaluation.pasted import pasted
from pvtt_model.evaluation.edit_scores import Direction, EditScores, Score, measure
from pvtt_model.evaluation.score_against_truth import identity_scores, truth_scores
from pvtt_model.evaluation.score_more import NONE, Networks, more_scores
from pvtt_model.evaluation.similarity import ClipExtractor, ImageExtractor, embed_reference, metric_name, product_similarity, text_similarity
from pvtt_model.specs import EvalSpec, ModelSpec

_PSNR_NOTE = f"dB outside the mask, pooled over frames; capped at {CAP_DB:g} (identical)"
_SSIM_NOTE = "outside the mask grown by 5 px"
_FRAME_NOTE = "neighbouring frames, whole picture; a frozen video scores 1, so read beside the source's"

#: name, video of the row, which way is better
_BACKGROUND: tuple[tuple[str, str, Direction], ...] = (
    ("raw", "raw", "higher"),
    ("composited", "composited", "higher"),
    ("ceiling", "round_trip", "context"),
)
_VIDEOS: tuple[tuple[str, str, Direction], ...] = (
    ("", "raw", "higher"),
    ("_composited", "composited", "higher"),
    ("_source", "source", "context"),
)


def score_edit(
    row: Mapping[str, Any],
    spec: EvalSpec,
    clip: ClipExtractor,
    dino: ImageExtractor,
    judge: ImageExtractor | None = None,
    gallery: Gallery | None = None,
    networks: Networks = NONE,
) -> dict[str, Score]:
    """Scores by metric name of one edits row. An unusable row has none: {}; see score_row, which counts it.

    judge and gallery: of identity_top1; networks: of the metrics that only some stages ask for (score_more.py).
    Without a judge it is left out, as the metrics against the right edit are where that is not known.
    What cannot be measured on this edit (a mask that leaves no background, an empty prompt) is a Score with value None and the reason.
    Raises ValueError for a row whose pictures do not agree in count or size.
    """
    if not row["usable"]:
        return {}
    frames = edit_frames(row, OPTIONAL_VIDEOS)
    scores: list[Score] = [*_background(frames), *_time(frames), *_identity(frames, spec, clip, dino), *_text(frames, str(row["prompt"]), spec, clip)]
    frames["pasted"] = pasted(frames["source"], frames["mask"], frames["reference"])
    scores += truth_scores(frames)
    if judge is not None:
        scores += identity_scores(row, frames, spec, judge, gallery)
    scores += more_scores(row, frames, spec, clip, dino, networks)
    return {score.name: score for score in scores}


def score_row(
    row: Mapping[str, Any],
    spec: EvalSpec,
    clip: ClipExtractor,
    dino: ImageExtractor,
    judge: ImageExtractor | None = None,
    gallery: Gallery | None = None,
    networks: Networks = NONE,
) -> EditScores:
    """The edit accounted for: done with its scores, failed (usable False) or quarantined (pictures that cannot be scored) with the reason."""
    edit = EditScores(
        clip_key=str(row["clip_key"]), reference_key=str(row.get("reference_key") or ""), prompt=str(row.get("prompt") or ""), status="done"
    )
    if not row["usable"]:
        return edit.model_copy(update={"status": "failed", "reason": str(row.get("reason") or "the editing gave no reason")})
    try:
        return edit.model_copy(update={"scores": score_edit(row, spec, clip, dino, judge, gallery, networks)})
    except (ValueError, OSError) as error:  # OSError: PIL's answer to bytes that are no picture
        return edit.model_copy(update={"status": "quarantined", "reason": str(error)})


def _background(frames: dict[str, Tensor]) -> list[Score]:
    source, mask = frames["source"], frames["mask"]
    found: list[Score] = []
    for label, video, direction in _BACKGROUND:
        psnr = measure(f"bg_psnr_{label}_db", direction, _PSNR_NOTE, background_psnr_db, frames[video], source, mask)
        ssim = measure(f"bg_ssim_{label}", direction, _SSIM_NOTE, background_ssim, frames[video], source, mask)
        if label == "raw":
            found.append(psnr.model_copy(update={"name": "bg_psnr_db", "note": psnr.note + "; the same as bg_psnr_raw_db"}))
            found.append(ssim.model_copy(update={"name": "bg_ssim", "note": ssim.note + "; the same as bg_ssim_raw"}))
        found += [psnr, ssim]
    return found


def _time(frames: dict[str, Tensor]) -> list[Score]:
    found = []
    for suffix, video, direction in _VIDEOS:
        label = suffix or "_raw"
        found.append(measure(f"frame_ssim{label}", direction, _FRAME_NOTE, frame_ssim, frames[video]))
        found.append(measure(f"frame_motion{label}", "context", "mean |difference| / 255", frame_motion, frames[video]))
    return found


def _identity(frames: dict[str, Tensor], spec: EvalSpec, clip: ClipExtractor, dino: ImageExtractor) -> list[Score]:
    found = []
    note = crop_rule(spec.crop_margin)
    pairs: tuple[tuple[str, ImageExtractor | ClipExtractor, ModelSpec], ...] = (("clip_i", clip, spec.clip), ("dino_i", dino, spec.dino))
    for family, extractor, model in pairs:
        reference = embed_reference(extractor, frames["reference"])
        for suffix, video, direction in _VIDEOS:
            name = metric_name(family + suffix, family, extractor.name, model)
            score = measure(name, direction, note, product_similarity, extractor, frames[video], frames["mask"], reference, spec.crop_margin)
            found.append(score.model_copy(update={"extractor": extractor.name}))
    return found


def _text(frames: dict[str, Tensor], prompt: str, spec: EvalSpec, clip: ClipExtractor) -> list[Score]:
    found = []
    for suffix, video, direction in _VIDEOS:
        name = metric_name("clip_t" + suffix, "clip_t", clip.name, spec.clip)
        score = measure(name, direction, "centre square of each frame", text_similarity, clip, frames[video], prompt)
        found.append(score.model_copy(update={"extractor": clip.name}))
    return found
