"""From a checked line to its rows of a clips shard, by really decoding. Nothing is padded, trimmed or repaired."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pvtt_model.artifacts import canonical_json, digest
from pvtt_model.data import video_io
from pvtt_model.data.duplicates import frame_hashes
from pvtt_model.data.manifest import CheckedLine, Truth
from pvtt_model.data.refusals import Refusal, Refused
from pvtt_model.data.shards import read_row, read_rows, write_clip_shard, write_shard
from pvtt_model.data.shots import Shot, first_cut_s, split
from pvtt_model.specs import ClipSpec, VideoSpec

__all__ = ["inspect", "read_row", "read_rows", "split_products", "write_clip_shard", "write_shard"]

FPS_TOLERANCE = 0.1
Row = dict[str, Any]


def inspect(line: CheckedLine, spec: ClipSpec, video: VideoSpec) -> list[Row | Refusal]:
    """The line's rows for a clips shard (SCHEMAS['clips']), or why there is none.

    One row or refusal; with spec.shots 'split' one for each shot. The used frames of the video (for a split all of them) and its last are
    decoded, in a process that is killed after spec.decode_timeout_s; every mask picture and reference is opened. Raises OSError where a
    file vanished after the scan.
    """
    try:
        return _rows(line, spec, video)
    except Refused as refused:
        return [Refusal(line.line, refused.kind, refused.reason, line.source)]


def _rows(line: CheckedLine, spec: ClipSpec, video: VideoSpec) -> list[Row | Refusal]:
    data = _unchanged(line.video_path, line.video_sha256)
    found = _video(data, line, spec, video)
    shots = _shots(found, spec, video)
    facts = found.facts
    mask = _mask(line.mask_format, line.mask_paths, line.mask_sha256, facts, spec.decode_timeout_s)
    references = [_unchanged(p, sha) for p, sha in zip(line.reference_paths, line.reference_sha256, strict=True)]
    for i, reference in enumerate(references):
        try:
            video_io.read_reference(reference)
        except video_io.PictureUnreadable as error:
            raise Refused("unreadable_reference", f"reference {i + 1} of {len(references)}: {error}") from None
    true_video, true_mask, true = _truth(line.truth, facts, spec, video) if line.truth else (None, None, None)
    row = {
        "video": data,
        "mask": mask,
        "mask_format": line.mask_format,
        "references": references,
        "prompt": line.prompt,
        **facts._asdict(),
        "product_id": line.product_id,
        "split": line.metadata.get("split"),
        "metadata": canonical_json(line.metadata).decode(),
        "source": line.source,
        "line": line.line,
        "product_words": line.metadata.get("product_words"),
        "look_alikes": line.metadata.get("look_alikes"),
        "truth_product_id": line.truth.product_id if line.truth else None,
        "truth_video": true_video,
        "truth_mask": true_mask,
    }
    return [_of_shot(row, line, found, true, shot, len(shots) > 1, video) for shot in shots]


def _shots(found: video_io.Look, spec: ClipSpec, video: VideoSpec) -> list[Shot]:
    """What is used of the video: one stretch, or its shots where they are wanted apart. Raises Refused for a cut, or where no shot will do."""
    whole = [Shot(0, 0.0, found.end_s, found.used)]
    if spec.shots == "refuse":
        at_s = first_cut_s(found, spec.shot_threshold)
        if at_s is not None:
            cure = "Cut the file there, set clips.shots=split (each long enough shot becomes a clip), or raise clips.shot_threshold."
            raise Refused("shot_cut", f"a new shot begins at {at_s:.2f} s, within the frames that the model sees. {cure}")
    if spec.shots != "split":
        return whole
    shots = split(found, spec.shot_threshold, video)
    if len(shots) == 1:
        if video.fps is None:
            _constant_rate(found, found.used)
        return whole
    if not any(len(shot.used) == video.num_frames for shot in shots):
        longest = max(shots, key=lambda shot: shot.end_s - shot.start_s)
        said = f"the longest of {len(shots)} shots is {longest.end_s - longest.start_s:.2f} s from {longest.start_s:.2f} s on"
        raise Refused("shot_cut", f"{said}, shorter than {_wanted(video)}. Use longer shots, or a smaller latents.video.num_frames.")
    return shots


def _of_shot(
    row: Row, line: CheckedLine, found: video_io.Look, true: video_io.Look | None, shot: Shot, is_part: bool, video: VideoSpec
) -> Row | Refusal:
    """The row of one shot; a shot of several that will not do is refused by itself. true: the right edit, whose frames are the video's."""
    if is_part:
        try:
            _shot_will_do(found, shot, video)
        except Refused as refused:
            return Refusal(line.line, refused.kind, refused.reason, line.source)
    true_frames = (shot.used if is_part else true.used) if true else []
    return row | {
        "clip_key": digest("shot", line.clip_key, shot.first) if is_part else line.clip_key,
        "used_frames": shot.used if is_part or video.fps else None,
        "start_s": shot.start_s if is_part else None,
        "frame_hashes": frame_hashes(_shown(found, shot.used)),
        "truth_frame_hashes": frame_hashes(_shown(true, true_frames)) if true and true_frames else None,
    }


def _shown(found: video_io.Look, frames: Sequence[int]) -> list[np.ndarray]:
    """The small pictures of these frames."""
    place = {frame: t for t, frame in enumerate(found.looked)}
    return [found.thumbs_THWC[place[frame]] for frame in frames]


def _shot_will_do(found: video_io.Look, shot: Shot, video: VideoSpec) -> None:
    where = f"the shot from {shot.start_s:.2f} s to {shot.end_s:.2f} s"
    if len(shot.used) < video.num_frames:
        raise Refused("too_short", f"{where} is shorter than {_wanted(video)}. Its neighbours may do; nothing is padded.")
    if video.fps is None:
        _constant_rate(found, shot.used, f"{where}: ")


def _mask(kind: str, paths: Sequence[str], hashes: Sequence[str], facts: video_io.VideoFacts, timeout_s: float) -> list[bytes]:
    mask = [_unchanged(p, sha) for p, sha in zip(paths, hashes, strict=True)]
    if kind == "video":
        _mask_video(mask[0], facts, timeout_s)
    elif kind == "png":
        _mask_pictures(mask, facts)
    return mask


def _truth(truth: Truth, facts: video_io.VideoFacts, spec: ClipSpec, video: VideoSpec) -> tuple[bytes, list[bytes], video_io.Look]:
    """The right edit's video, its mask (a picture a frame) and its look: as long and as large as the clip, or the clip is refused."""
    timeout_s = spec.decode_timeout_s
    data = _unchanged(truth.video_path, truth.video_sha256)
    try:
        found = video_io.look(data, video.num_frames, video.fps, spec.shots == "split", timeout_s)
    except video_io.VideoUnreadable as error:
        raise Refused("unreadable_video", f"truth: {error} Re-encode or copy the file again.") from None
    own = found.facts
    size, true_size = (facts.width, facts.height), (own.width, own.height)
    if true_size != size:
        raise Refused("size_mismatch", f"truth is {true_size[0]}x{true_size[1]}; the video {size[0]}x{size[1]}. Give the edit at the video's size.")
    if not abs(own.fps - facts.fps) <= FPS_TOLERANCE:
        raise Refused("fps_mismatch", f"truth has {own.fps:.3f} fps; the video has {facts.fps:.3f}. Give the edit at the video's rate.")
    if own.num_frames != facts.num_frames:
        raise Refused("frame_count_mismatch", f"truth has {own.num_frames} frames; the video has {facts.num_frames}. Give the edit frame by frame.")
    try:
        mask = _mask(truth.mask_format, truth.mask_paths, truth.mask_sha256, facts, timeout_s)
    except Refused as refused:
        raise Refused(refused.kind, f"truth: {refused.reason}") from None
    if truth.mask_format == "png":
        return data, mask, found
    try:
        return data, [video_io.png_bytes(frame) for frame in video_io.decode(mask[0], None, timeout_s)], found
    except video_io.VideoUnreadable as error:
        raise Refused("unreadable_mask", f"truth: mask: {error} Re-encode or copy the file again.") from None


def _unchanged(path: str, sha256: str) -> bytes:
    data = Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Refused("changed", f"'{Path(path).name}' changed after the manifest was scanned. Let the copy finish, then run again.")
    return data


def _video(data: bytes, line: CheckedLine, spec: ClipSpec, video: VideoSpec) -> video_io.Look:
    try:
        found = video_io.look(data, video.num_frames, video.fps, spec.shots == "split", spec.decode_timeout_s)
    except video_io.DecodeTimeout as error:
        raise Refused("decode_timeout", f"{error} The machine may have been busy: it is tried again when the clip is met again.") from None
    except video_io.VideoUnreadable as error:
        raise Refused("unreadable_video", f"{error} Re-encode or copy the file again.") from None
    facts = found.facts
    _long_enough(found, video)
    if min(facts.width, facts.height) < spec.min_side_px:
        cure = "Use a larger one, or lower clips.min_side_px."
        raise Refused("too_small", f"video is {facts.width}x{facts.height}; sides below {spec.min_side_px} px are refused. {cure}")
    told = line.metadata
    if told["resolution"] is not None and tuple(told["resolution"]) != (facts.width, facts.height):
        raise Refused(
            "size_mismatch", f"metadata says resolution {told['resolution']}; the video is [{facts.width}, {facts.height}]. Correct the metadata."
        )
    if told["fps"] is not None and not abs(told["fps"] - facts.fps) <= FPS_TOLERANCE:
        raise Refused("fps_mismatch", f"metadata says {told['fps']} fps; the video has {facts.fps:.3f}. Correct the metadata.")
    if told["num_frames"] is not None and told["num_frames"] != facts.num_frames:
        raise Refused("frame_count_mismatch", f"metadata says {told['num_frames']} frames; the video has {facts.num_frames}. Correct the metadata.")
    if video.fps is None and spec.shots != "split":
        _constant_rate(found, found.used)
    return found


def _long_enough(found: video_io.Look, video: VideoSpec) -> None:
    """Refuses what has too few frames, or seconds where frames are taken by their times."""
    wanted = video.num_frames
    if video.fps is not None and found.starts_s is None:
        raise Refused("no_times", "the file holds no times of its frames. Re-encode it, or set latents.video.fps=null.")
    if video.fps is not None and len(found.used) < wanted:
        need = f"the last of {wanted} frames at {video.fps:g} a second is wanted at {(wanted - 1) / video.fps:.2f} s"
        raise Refused("too_short", f"video ends at {found.end_s:.2f} s; {need}. Use a longer clip, or a smaller latents.video.num_frames.")
    if found.facts.num_frames < wanted and video.fps is None:
        cure = "Use a longer clip, or a smaller latents.video.num_frames."
        raise Refused("too_short", f"video has {found.facts.num_frames} frames; the model sees {wanted}. {cure}")


def _wanted(video: VideoSpec) -> str:
    return f"the {video.num_frames} frames that the model sees" + ("" if video.fps is None else f" at {video.fps:g} a second")


def _constant_rate(found: video_io.Look, frames: Sequence[int], where: str = "") -> None:
    """Refuses frames that are taken by their number and shown at a varying rate."""
    off = None if found.starts_s is None else _misplaced([found.starts_s[i] for i in frames])
    if off is not None:
        raise Refused(
            "variable_rate",
            f"{where}frame {frames[off[0]]} is shown {off[1]:+.2f} s from where a constant rate would have it: the video's frame rate varies. "
            "Re-encode it at a constant rate, or set latents.video.fps, so that frames are taken by their times.",
        )


def _misplaced(starts_s: Sequence[float]) -> tuple[int, float] | None:
    """The first frame that is shown more than half a frame from its place at the mean rate, and how far, seconds."""
    frame_s = (starts_s[-1] - starts_s[0]) / max(1, len(starts_s) - 1)
    off = [s - starts_s[0] - i * frame_s for i, s in enumerate(starts_s)]
    return next(((i, o) for i, o in enumerate(off) if abs(o) > frame_s / 2), None)


def _mask_video(data: bytes, facts: video_io.VideoFacts, timeout_s: float) -> None:
    try:
        mask = video_io.probe_ends(data, 1, timeout_s)
    except video_io.VideoUnreadable as error:
        raise Refused("unreadable_mask", f"mask: {error} Re-encode or copy the file again.") from None
    _mask_fits(mask.num_frames, (mask.width, mask.height), facts)


def _mask_pictures(pictures: Sequence[bytes], facts: video_io.VideoFacts) -> None:
    _mask_fits(len(pictures), (facts.width, facts.height), facts)
    for i, data in enumerate(pictures):
        try:
            size = video_io.read_picture(data).size
        except video_io.PictureUnreadable as error:
            raise Refused("unreadable_mask", f"mask of frame {i}: {error}") from None
        _mask_fits(len(pictures), size, facts)


def _mask_fits(count: int, size: tuple[int, int], facts: video_io.VideoFacts) -> None:
    if count != facts.num_frames:
        raise Refused("mask_frame_count", f"mask has {count} frames; the video has {facts.num_frames}. Give one mask a frame; none is padded.")
    if size != (facts.width, facts.height):
        raise Refused("mask_size", f"mask is {size[0]}x{size[1]}; the video is {facts.width}x{facts.height}. Give masks at the video's size.")


def split_products(product_ids: Collection[str], share: float, given: Mapping[str, str]) -> set[str]:
    """The products held out of training: to be judged, or kept by the manifest for validation.

    By the hash of the name alone, so that new products move no old one. given: product -> 'train', 'validation' or 'eval', and wins: what the
    manifest says, and of the products of an earlier version where they were. The others go by hash below `share`; of two or more products at
    least one is there to be judged and at least one trained on, as far as `given` leaves a choice. One product alone is trained on (the empty
    set): the caller says that nothing is left to judge.
    """
    places = {product: _place(product) for product in product_ids}
    products = sorted(places, key=lambda p: (places[p], p))
    kept = {p for p in products if given.get(p) in ("validation", "eval")}
    free = [p for p in products if p not in given and p not in kept]
    chosen = kept | {p for p in free if places[p] < share}
    if len(products) >= 2 and all(given.get(p) == "validation" for p in chosen) and free:
        chosen = chosen | {free[0]}
    if len(chosen) == len(products) and free:
        chosen = chosen - {free[-1]}
    return chosen


def _place(product: str) -> float:
    """A fixed number in [0, 1) by the product's name."""
    return int.from_bytes(hashlib.sha256(product.encode()).digest()[:6], "big") / 2**48
