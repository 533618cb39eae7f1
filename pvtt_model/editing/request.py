"""What is asked for, opened: the video window by window, its mask, the reference pictures. Bad input is refused here, before any model runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pvtt_model.artifacts import digest, sha256_of_file
from pvtt_model.curation.mask_quality import measure
from pvtt_model.curation.mask_risk import risks_of
from pvtt_model.curation.providers import MaskModels, MaskRefused, provide
from pvtt_model.data.video_io import (
    PictureUnreadable,
    VideoFacts,
    VideoUnreadable,
    decode_at,
    fit_mask,
    png_bytes,
    png_mask,
    probe,
    probe_ends,
    read_reference,
    unfit_mask,
)  # fmt: skip
from pvtt_model.specs import EditorSpec, MaskSpec, VideoSpec

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SMALL_SIDE = 160  # px: at which a mask's steadiness is measured
CHUNK = 64  # frames of a mask held at once
MOST_CUT = 0.02  # share of the product's pixels that the model's crop may leave out
SAME_ASPECT = 0.01

Span = Callable[[int, int], Tensor]


class EditRequest(NamedTuple):
    """One edit. point, box: of the old product in the first frame, pixels, where no mask is given; source_references: pictures of it."""

    video: Path
    references: tuple[Path, ...]
    prompt: str = ""
    mask: Path | None = None
    negative_prompt: str = ""
    product_words: str | None = None
    point: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    source_references: tuple[Path, ...] = ()
    num_frames: int | None = None  # the first so many of the video; None: all
    first_frame: Path | None = None  # of the first-frame mode


class Opened(NamedTuple):
    """frames(start, stop) and mask(start, stop) read at the source's size; mask_figures are those of mask_quality.measure."""

    facts: VideoFacts
    frames: Span
    mask: Span
    references: tuple[bytes, ...]
    mask_provenance: str
    mask_figures: dict[str, Any]
    warnings: list[str]
    sha256: dict[str, str]


def open_request(request: EditRequest, spec: EditorSpec, models: MaskModels | None = None, timeout_s: float = 120.0) -> Opened:
    """The request's files, checked. Raises FileNotFoundError, VideoUnreadable, PictureUnreadable, and ValueError for a mask that does not
    agree with the video in length or shape, is empty, or whose product lies outside what the model sees."""
    facts = video_facts(request)
    if not request.references:
        raise ValueError("no reference picture is given. Give at least one of the product that goes in.")
    references = tuple(_picture(path) for path in request.references)

    def frames(start: int, stop: int) -> Tensor:
        return decode_at(request.video, range(start, stop), timeout_s)[1]

    warnings: list[str] = []
    if request.mask is not None:
        mask, provenance = given_mask(request.mask, facts, request.num_frames, spec.masks.threshold, timeout_s), "given"
    else:
        mask, provenance = _found_mask(request, facts, references, spec.masks, models, timeout_s)
        if provenance == "grabcut":
            warnings.append(
                "nothing pointed at the product: grabcut believes in the centre and may follow another thing. Look at mask.mp4, or give --point."
            )
    figures, cut = _measured(mask, facts, spec)
    warnings += [f"mask: {reason}" for reason in risks_of(figures, facts.height, spec.masks).values()]
    warnings += _judged(figures, cut, facts.num_frames, spec.latents.video)
    if spec.latents.video.fps and abs(facts.fps / spec.latents.video.fps - 1) > 0.25:
        warnings.append(
            f"the video has {facts.fps:.4g} frames a second, the model was trained on {spec.latents.video.fps:g}: motion looks slower to it."
        )
    return Opened(facts, frames, mask, references, provenance, figures, warnings, _hashes(request))


def video_facts(request: EditRequest) -> VideoFacts:
    """Size, rate and length of the video, its last frame decoded; num_frames of the request counts where it is fewer."""
    if not request.video.is_file():
        raise FileNotFoundError(f"there is no video at {request.video}. Give the path of a file.")
    facts = probe_ends(request.video, 1)
    if request.num_frames is None:
        return facts
    if not 1 <= request.num_frames <= facts.num_frames:
        raise ValueError(f"{request.num_frames} frames are asked for; {request.video.name} has {facts.num_frames}. Ask for no more.")
    return facts._replace(num_frames=request.num_frames)


def given_mask(path: Path, facts: VideoFacts, limit: int | None, threshold: int, timeout_s: float = 120.0) -> Span:
    """mask(start, stop), bool T,H,W, of a video, a folder of pictures one a frame (by name), or one picture for all frames.

    Counts must agree: nothing is padded. limit: that the first frames alone are edited, so that the mask may be longer. A mask of another size
    and the video's aspect is scaled by nearest neighbour.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no mask at {path}. Give an mp4, a folder of pictures, or one picture.")
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        _same_count(len(pictures), facts, limit, f"mask folder {path} holds {{}} pictures")
        return lambda start, stop: torch.cat([_sized(png_mask(p.read_bytes(), threshold)[None], facts, path) for p in pictures[start:stop]])
    if path.suffix.lower() in PICTURES:
        one = _sized(png_mask(path.read_bytes(), threshold)[None], facts, path)
        return lambda start, stop: one.expand(stop - start, -1, -1)
    _same_count(probe(path).num_frames, facts, limit, f"mask {path} has {{}} frames")

    def of_video(start: int, stop: int) -> Tensor:
        frames = decode_at(path, range(start, stop), timeout_s)[1]
        return _sized(torch.stack([f.float().mean(0).round() > threshold for f in frames]), facts, path)

    return of_video


def _same_count(count: int, facts: VideoFacts, limit: int | None, what: str) -> None:
    if count < facts.num_frames or (limit is None and count > facts.num_frames):
        raise ValueError(f"{what.format(count)}; the video has {facts.num_frames}. Give a mask for every frame: none is padded or dropped.")


def _sized(mask_THW: Tensor, facts: VideoFacts, path: Path) -> Tensor:
    height, width = mask_THW.shape[1:]
    if (width, height) == (facts.width, facts.height):
        return mask_THW
    if abs(width * facts.height / (height * facts.width) - 1) > SAME_ASPECT:
        raise ValueError(
            f"mask {path} is {width}x{height}, the video {facts.width}x{facts.height}: another aspect. Give the mask at the video's size."
        )
    return F.interpolate(mask_THW[:, None].to(torch.uint8), (facts.height, facts.width), mode="nearest-exact")[:, 0].bool()


def _found_mask(
    request: EditRequest, facts: VideoFacts, references: tuple[bytes, ...], spec: MaskSpec, models: MaskModels | None, timeout_s: float
) -> tuple[Span, str]:
    """The mask by the spec's provider, kept as a 1-bit PNG a frame. The whole video is decoded for it."""
    provider = spec.when_missing if spec.provider == "given" else spec.provider
    if provider == "reject":
        raise ValueError("no mask is given and masks.when_missing is 'reject'. Give --mask, or set masks.when_missing=grabcut.")
    old = tuple(_picture(path) for path in request.source_references)
    metadata = {"point": request.point and list(request.point), "box": request.box and list(request.box)}
    row = {
        "clip_key": "edit", "video": request.video.read_bytes(), "mask": [], "mask_format": "none", "references": list(old or references),
        "metadata": json.dumps({name: value for name, value in metadata.items() if value}),
    }  # fmt: skip
    try:
        found = provide(provider, row, facts.num_frames, spec, timeout_s, models)
    except MaskRefused as error:
        raise ValueError(f"no mask could be found: {error} Give --mask, or --point on the product.") from None
    pictures = [png_bytes(mask) for mask in found.mask_THW]
    return lambda start, stop: torch.stack([png_mask(picture) for picture in pictures[start:stop]]), found.provenance


def _measured(mask: Span, facts: VideoFacts, spec: EditorSpec) -> tuple[dict[str, Any], float]:
    """The mask's figures (steadiness at SMALL_SIDE), and the share of the product's pixels outside what the model sees."""
    video, small, product, outside, frames = spec.latents.video, [], 0, 0, 0
    scale = min(1.0, SMALL_SIDE / max(facts.width, facts.height))
    size = max(1, round(facts.height * scale)), max(1, round(facts.width * scale))
    seen = unfit_mask(fit_mask(torch.ones(1, facts.height, facts.width, dtype=torch.bool), video), (facts.height, facts.width), video)
    for start in range(0, facts.num_frames, CHUNK):
        mask_THW = mask(start, min(start + CHUNK, facts.num_frames))
        frames += len(mask_THW)
        product, outside = product + int(mask_THW.sum()), outside + int((mask_THW & ~seen).sum())
        small.append(F.adaptive_max_pool2d(mask_THW[:, None].float(), size)[:, 0].bool())
    if frames != facts.num_frames:
        raise VideoUnreadable(f"the mask gave {frames} frames, the video has {facts.num_frames}. Give a mask for every frame.")
    figures = measure(torch.cat(small), spec.masks)
    figures |= {"jitter_px": figures["jitter_px"] / scale, "area": product / (frames * facts.width * facts.height)}
    return figures, outside / max(1, product)


def _judged(figures: dict[str, Any], cut: float, num_frames: int, video: VideoSpec) -> list[str]:
    if figures["area"] == 0:
        raise ValueError("the mask is empty in every frame: there is nothing to edit. Check its polarity (white is product).")
    if cut > MOST_CUT:
        sizes = ", ".join(f"{w}x{h}" for w, h in video.sizes)
        raise ValueError(
            f"{cut:.0%} of the product lies outside what the model sees: it takes {sizes} and the sides are cut. "
            "Set latents.video.fit=stretch, or a size of the video's aspect: latents.video.width and height, in sixteens."
        )
    gaps = int(figures["gaps"])
    return [f"the mask is empty in {gaps} of {num_frames} frames, which stay as they are."] if gaps else []


def _picture(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture at {path}. Give the path of a PNG or JPEG.")
    data = path.read_bytes()
    try:
        read_reference(data)
    except PictureUnreadable as error:
        raise PictureUnreadable(f"{path}: {error}") from None
    return data


def _hashes(request: EditRequest) -> dict[str, str]:
    """SHA-256 of every file named; of a folder, of its files' names and hashes."""
    paths = [request.video, *request.references, *request.source_references]
    paths += [path for path in (request.mask, request.first_frame) if path is not None]
    return {str(path): sha256_of(path) for path in paths}


def sha256_of(path: Path) -> str:
    """Of a file, or of a folder's picture files by name and content."""
    if path.is_file():
        return sha256_of_file(path)
    return digest([[p.name, sha256_of_file(p)] for p in sorted(path.iterdir()) if p.is_file()])
