"""Who makes a clip's mask: the manifest, GrabCut with optical flow, or SAM 2. One question to each, one answer.

    provide(name, clip row, ..) -> Found(mask_THW, provenance), or MaskRefused with the reason

Provenance says who made it and what pointed at the product: 'manifest', 'grabcut' (by the centre), 'grabcut by nano-dinov2',
'sam2.1-hiera-t by manifest'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from pvtt_model.backbones.source import label
from pvtt_model.curation.grabcut import grabcut_masks
from pvtt_model.curation.sam2_masks import Segmenter, sam2_masks
from pvtt_model.curation.target import PromptUnreadable, Target, find_target, match_target
from pvtt_model.data import video_io
from pvtt_model.specs import MaskSpec, ModelSpec

if TYPE_CHECKING:
    from pvtt_model.backbones.image import ImageEncoder

# Of frame 0's best match. On two real clips, by tf-efficientnet-lite0: 0.97 or more where the product is seen, 0.89 or less where painted over.
STILL_SEEN = 0.9

Provider = Literal["given", "grabcut", "sam2", "none"]


class MaskModels(NamedTuple):
    """Loaders of the frozen models that a MaskSpec names; called where a clip needs one, not before."""

    image: Callable[[ModelSpec], ImageEncoder]
    sam2: Callable[[ModelSpec], Segmenter]


class Found(NamedTuple):
    mask_THW: torch.Tensor  # bool, at the source's size
    provenance: str
    match: float | None = None  # cosine of frame 0's best cell and the reference, where that pointed at it


class MaskRefused(Exception):
    """No mask, and why. `provenance` is who was asked."""

    def __init__(self, provenance: str, reason: str) -> None:
        super().__init__(reason)
        self.provenance = provenance


def provider_of(clip_row: dict[str, Any], spec: MaskSpec) -> Provider:
    """Who is to make the mask of this clip; 'none' where it has none and spec rejects that."""
    if spec.provider != "given" or clip_row["mask_format"] != "none":
        return spec.provider
    return "none" if spec.when_missing == "reject" else spec.when_missing


def provide(provider: Provider, clip_row: dict[str, Any], num_frames: int, spec: MaskSpec, timeout_s: float, models: MaskModels | None) -> Found:
    """The mask of the first num_frames frames by `provider`. Raises MaskRefused; ValueError where a model is wanted and `models` is None."""
    who = {"given": "manifest", "sam2": label(spec.sam2) if spec.sam2 else "sam2"}.get(provider, provider)
    try:
        if provider == "given" and clip_row["mask_format"] != "none":
            return Found(given_mask(clip_row, num_frames, spec.threshold, timeout_s), who)
        if provider in ("given", "none"):
            raise MaskRefused("none", "the manifest gives no mask. Add mask_path, or set masks.when_missing=grabcut.")
        frames = video_io.decode(clip_row["video"], num_frames, timeout_s)
        if provider == "sam2":
            return _by_sam2(clip_row, frames, spec, models)
        targets = _targets(clip_row, frames, spec, _encoder(spec, models), who)
        return _found(grabcut_masks(frames, targets), who, targets.get(0))
    except (video_io.VideoUnreadable, video_io.PictureUnreadable) as error:
        raise MaskRefused(who, f"mask: {error}") from None
    except PromptUnreadable as error:
        raise MaskRefused(who, str(error)) from None


def given_mask(clip_row: dict[str, Any], num_frames: int, threshold: int, timeout_s: float) -> torch.Tensor:
    """The manifest's mask, bool T,H,W: grey above `threshold` (of 255) is product. Raises VideoUnreadable, PictureUnreadable."""
    if clip_row["mask_format"] == "video":
        frames_TCHW = video_io.decode(clip_row["mask"][0], num_frames, timeout_s)
        return frames_TCHW.float().mean(1).round() > threshold
    pictures = clip_row["mask"][:num_frames]
    if len(pictures) < num_frames:
        raise video_io.PictureUnreadable(f"{len(pictures)} mask pictures for {num_frames} frames. Give one a frame; none is padded.")
    masks = [video_io.png_mask(p, threshold) for p in pictures]
    if len({m.shape for m in masks}) > 1:
        raise video_io.PictureUnreadable("the mask pictures differ in size. Give them all at the video's size.")
    return torch.stack(masks)


def _by_sam2(clip_row: dict[str, Any], frames_TCHW: torch.Tensor, spec: MaskSpec, models: MaskModels | None) -> Found:
    if spec.sam2 is None or models is None:
        raise ValueError(
            f"sam2 is to make a mask; masks.sam2 is {spec.sam2} and its loader {models}. Set masks.sam2, and pass models=MaskModels(..)."
        )
    target = first_target(clip_row, frames_TCHW[0], spec, _encoder(spec, models), label(spec.sam2))
    if target is None:
        raise MaskRefused(label(spec.sam2), "nothing says which thing is the product. Give metadata.point or box, or set masks.image_encoder.")
    segmenter = models.sam2(spec.sam2)
    return _found(sam2_masks(frames_TCHW, target, segmenter, spec.window_frames), segmenter.name, target)


def _found(mask_THW: torch.Tensor, who: str, target: Target | None) -> Found:
    if target is None:
        return Found(mask_THW, who)
    return Found(mask_THW, f"{who} by {target.found_by}", None if target.score_hw is None else float(target.score_hw.max()))


def _encoder(spec: MaskSpec, models: MaskModels | None) -> ImageEncoder | None:
    if spec.image_encoder is None:
        return None
    if models is None:
        raise ValueError(f"masks.image_encoder is '{spec.image_encoder.architecture}', but no loader was given. Pass models=MaskModels(..).")
    return models.image(spec.image_encoder)


def _targets(clip_row: dict[str, Any], frames_TCHW: torch.Tensor, spec: MaskSpec, encoder: ImageEncoder | None, who: str) -> dict[int, Target]:
    """Where the product is in frame 0, and, where the references tell, in every rematch_every-th. Empty without manifest's prompt and encoder.

    A later frame whose best match falls short of frame 0's is left out: there the product is hidden, and the references are found in something else.
    """
    first = first_target(clip_row, frames_TCHW[0], spec, encoder, who)
    if first is None:
        return {}
    if encoder is None or first.score_hw is None:
        return {0: first}
    again = range(spec.rematch_every, len(frames_TCHW), spec.rematch_every)
    later = {i: match_target(clip_row["references"], frames_TCHW[i], encoder) for i in again}
    return {0: first} | {i: target for i, target in later.items() if _best(target) >= STILL_SEEN * _best(first)}


def first_target(clip_row: dict[str, Any], frame_CHW: torch.Tensor, spec: MaskSpec, encoder: ImageEncoder | None, who: str) -> Target | None:
    """The product in frame 0, or None. Raises MaskRefused where its match is below spec.min_match."""
    found = find_target(clip_row, frame_CHW, encoder)
    if found is not None and found.score_hw is not None and _best(found) < spec.min_match:
        raise MaskRefused(
            f"{who} by {found.found_by}",
            f"the reference is not in the first frame: best match {_best(found):.2f}, below masks.min_match={spec.min_match}. Cut the clip?",
        )
    return found


def _best(target: Target) -> float:
    return 1.0 if target.score_hw is None else float(target.score_hw.max())
