"""Variants of a clip in time (the survey's 10.6): other frames of the same shot of the same file, from a little before or after, taken at a rate
a little higher or lower.

Variant 0 is the clip as it is. Which frames a further one takes is drawn from (seed, clip, variant) alone, by the frames' times: it begins with a
frame within offset_s of the clip's first, and takes frames at the clip's rate x (1 - rate_jitter to 1 + rate_jitter), each the last that has
begun, as ingest does. Only what is there is drawn: as much offset and as low a rate as the shot has room for, and no rate above the file's own,
at which frames would repeat. So a file of the very rate that the model sees is only ever taken sparser, and a shot as long as the clip gives no
variant at all.

A variant is left out, with the reason, where its frames are those of an earlier one, where a cut is found in them as ingest finds cuts, or where
its mask would be refused. Its mask is the manifest's own, of the same frames; a mask that was found covers the clip's own frames alone, so such
clips get no variant, and neither do those that the manifest holds out.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from pvtt_model.curation.frames import as_seen, frames_and_mask
from pvtt_model.curation.masks import mask_of
from pvtt_model.curation.variants import widened_masks
from pvtt_model.data.decode_worker import SLACK_S, frames_at
from pvtt_model.data.shots import cuts
from pvtt_model.data.video_io import Look, VideoUnreadable, look
from pvtt_model.specs import LatentSpec, MaskSpec, VideoAugmentSpec

Row = dict[str, Any]


class VideoVariant(NamedTuple):
    number: int  # 0: the clip as it is
    used: list[int]  # frames of the file
    frames_TCHW: Tensor  # uint8, at the model's size
    masks: list[Tensor]  # bool T,H,W, widened: the policy's own, then jittered ones


class LeftOut(NamedTuple):
    number: int
    reason: str


class ShotTimes(NamedTuple):
    """The stretch of a file that a variant may use, and when its frames are shown."""

    starts_s: Sequence[float]  # of every frame of the file, ascending
    first: int  # of the frames first to end - 1, which are one shot
    end: int
    end_s: float  # when the last of them is no longer shown


def clip_variants(
    clip: Row, mask: Row, spec: LatentSpec, masks: MaskSpec, shot_threshold: float | None, timeout_s: float
) -> Iterator[VideoVariant | LeftOut]:
    """Of each variant of a clip, 0 to spec.video_variants - 1, its frames and masks or why there are none; of a held-out clip variant 0 alone.

    clip, mask: its rows in those shards. masks: what a variant's mask is held to. shot_threshold: as ClipSpec's; None: cuts are ignored.
    timeout_s: of decoding a file once, seconds.
    """
    held_out = clip["split"] in ("validation", "eval")
    count = 1 if held_out else spec.variants
    first = _fitted(0, list(clip.get("used_frames") or range(spec.video.num_frames)), clip, mask, spec, count, timeout_s)
    yield first
    if held_out or spec.video_variants == 1 or isinstance(first, LeftOut):
        return
    for number, used in _other_frames(clip, mask, first.used, spec, shot_threshold, timeout_s):
        if isinstance(used, str):
            yield LeftOut(number, used)
            continue
        seen = as_seen(clip | {"used_frames": used})
        its_mask = mask_of(seen, spec.video, masks.model_copy(update={"compare": "none"}), timeout_s)
        yield _fitted(number, used, seen, its_mask, spec, count, timeout_s) if its_mask["usable"] else LeftOut(number, its_mask["reason"])


def _other_frames(
    clip: Row, mask: Row, first: list[int], spec: LatentSpec, shot_threshold: float | None, timeout_s: float
) -> list[tuple[int, list[int] | str]]:
    """(number, its frames or why it has none) of each further variant; first: the clip's own frames."""
    numbers = range(1, spec.video_variants)
    if mask["provenance"] != "manifest":
        return [(n, f"the mask was found ({mask['provenance']}), for the clip's own frames alone") for n in numbers]
    try:
        found = look(clip["video"], spec.video.num_frames, spec.video.fps, True, timeout_s)
    except VideoUnreadable as error:
        return [(n, str(error)) for n in numbers]
    if found.starts_s is None:
        return [(n, "the file holds no times of its frames") for n in numbers]
    shot = shot_of(found, found.starts_s, first, shot_threshold)
    drawn: dict[int, list[int] | str] = {0: first}
    for n in numbers:
        used = variant_frames(shot, first, spec.video.fps, spec.augment_video, clip["clip_key"], n)
        if used in drawn.values():
            drawn[n] = f"its frames are those of an earlier one; the shot has {shot.end - shot.first} frames"
        elif shot_threshold is not None and cuts(found.thumbs_THWC[sorted(set(used))], shot_threshold):
            drawn[n] = "a new shot begins in its frames"
        else:
            drawn[n] = used
    return [(n, drawn[n]) for n in numbers]


def _fitted(number: int, used: list[int], clip: Row, mask: Row, spec: LatentSpec, count: int, timeout_s: float) -> VideoVariant | LeftOut:
    """The variant at the model's size with `count` masks, each drawn from the clip, the variant and the mask's number alone."""
    try:
        frames, exact = frames_and_mask(clip, mask, spec.video, timeout_s)
    except VideoUnreadable as error:
        return LeftOut(number, str(error))
    key = f"{clip['clip_key']} video {number}" if number else clip["clip_key"]
    masks = widened_masks(exact, spec.mask_policy, key, count)
    if not masks[0].any():
        return LeftOut(number, "the mask is empty once cut to its bucket; use video.fit='stretch', a nearer bucket or another clip")
    return VideoVariant(number, used, frames, masks)


def shot_of(found: Look, starts_s: Sequence[float], used: Sequence[int], threshold: float | None) -> ShotTimes:
    """From the last cut up to the first used frame to the first cut behind the last one, of a file looked at whole; threshold None: all of it."""
    total = found.facts.num_frames
    begins = [0, *([] if threshold is None else cuts(found.thumbs_THWC, threshold)), total]
    first, end = max(b for b in begins if b <= used[0]), min(b for b in begins if b > used[-1])
    return ShotTimes(starts_s, first, end, found.end_s if end == total else starts_s[end])


def variant_frames(shot: ShotTimes, used: Sequence[int], fps: float | None, spec: VideoAugmentSpec, clip_key: str, variant: int) -> list[int]:
    """As many frames of the file as `used`, in order and within the shot; `used` itself where nothing may or can differ.

    used: the clip's own. fps: at which they were taken; None: one after the other. They then have a constant rate but for half a frame either
    way, so the times asked for lie in the middle of the frames, where they meet just these.
    """
    rng = random.Random(int.from_bytes(hashlib.sha256(f"{spec.seed} {clip_key} video {variant}".encode()).digest()[:8], "big"))
    starts, gaps = np.asarray(shot.starts_s), len(used) - 1
    own_s = float(np.median(np.diff([*starts[shot.first : shot.end], shot.end_s])))
    frame_s = 1 / fps if fps is not None else float(starts[used[-1]] - starts[used[0]]) / gaps if gaps else own_s
    into_s = 0.0 if fps is not None else frame_s / 2
    last_s = shot.end_s - SLACK_S - into_s  # before which the last frame is asked for
    near = [i for i in range(shot.first, shot.end) if abs(starts[i] - starts[used[0]]) <= spec.offset_s + SLACK_S]
    room_s = float(last_s - starts[near[0]])
    lowest = min(1.0, max(1 - spec.rate_jitter, gaps * frame_s / room_s)) if room_s > 0 else 1.0
    highest = min(1 + spec.rate_jitter, max(1.0, frame_s / own_s))
    rate = rng.uniform(lowest, highest) / frame_s
    fitting = [i for i in near if starts[i] + gaps / rate < last_s]
    return frames_at(starts, shot.end_s, rate, len(used), starts[rng.choice(fitting)] + into_s) if fitting else list(used)
