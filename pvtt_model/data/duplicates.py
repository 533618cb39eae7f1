"""Clips that look alike: a perceptual hash a clip, and the pairs that are near.

The first, the middle and the last used frame are looked at on a grid of 8 x 8: by whether brightness rises or falls from left to right and
from top to bottom (dHash), and by their colours. A step of brightness counts where it is strong in either clip, and is unlike where the other clip
has none of its direction, weak ones counted: on a plain ground steps are weak, and their sign is noise. The distance of two clips is the share of
the counted steps that are unlike, times 64; below LEAST_STEPS there is none. Two products on one plain ground have like steps, so a
pair is near only where, besides, at most UNLIKE_CELLS of the cells differ in colour.

Measured on two real clips: copies re-encoded 0.0, with a logo 1.7, cut by 1 % of each side 0.9 and 2.2, by 2 % 3.4 and 5.1, at most 0.062 of the
cells unlike; of the 105 pairs of 15 packshots on one ground four at 0 to 1.2, three of them told apart by colour. A copy that is cut more,
mirrored, relit, or begins later is not found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

FRAMES, HASHES = 3, 6  # of a clip
WEAK, STRONG = 2, 6  # grey levels, of 255
LEAST_STEPS = 12  # of 384
COLOUR_STEP, UNLIKE_CELLS = 20, 0.065  # levels of any channel; share of the cells
STEP_BYTES, COLOUR_BYTES = HASHES * 4 * 8, FRAMES * 64 * 3
CHUNK_PAIRS = 1 << 20  # compared at once


def frame_hashes(frames_THWC: Sequence[np.ndarray]) -> str:
    """A clip's frames (uint8 H,W,3, any size) as hex: their steps, then their colours. Raises ValueError where there is no frame."""
    if not len(frames_THWC):
        raise ValueError("a clip without frames has no hash. Give at least one.")
    pictures = [Image.fromarray(np.asarray(frames_THWC[i])).convert("RGB") for i in (0, len(frames_THWC) // 2, len(frames_THWC) - 1)]
    steps = b"".join(_steps(picture.convert("L")) for picture in pictures)
    return (steps + b"".join(np.asarray(picture.resize((8, 8), Image.Resampling.BOX)).tobytes() for picture in pictures)).hex()


def _steps(grey: Image.Image) -> bytes:
    """Across, then down: where brightness rises, falls, rises strongly, falls strongly; 64 bits each."""
    across = np.asarray(grey.resize((9, 8), Image.Resampling.BOX)).astype(int)
    down = np.asarray(grey.resize((8, 9), Image.Resampling.BOX)).astype(int)
    steps = (across[:, 1:] - across[:, :-1], down[1:] - down[:-1])
    return b"".join(np.packbits(seen).tobytes() for s in steps for seen in (s >= WEAK, s <= -WEAK, s >= STRONG, s <= -STRONG))


def near_pairs(hashes: Sequence[str | None], most_bits: float, new_from: int = 0, unlike_cells: float = UNLIKE_CELLS) -> list[tuple[int, int, float]]:
    """(i, j, distance) for all i < j at most `most_bits` apart, where j is new_from or later. None stands for a clip without a hash.

    unlike_cells: 1 asks of the steps alone. Every pair is compared: seconds for 10,000 new clips, and for 10 new clips among 300,000.
    """
    known, words, colours = _parsed(hashes)
    found = []
    first_new = int(np.searchsorted(np.array(known, np.int64), new_from))
    step = max(1, CHUNK_PAIRS // max(1, len(words)))
    for start in range(first_new, len(words), step):
        new = words[start : start + step]
        apart = _distance(new, words[: min(len(words), start + step)])
        for j, i in zip(*np.nonzero(apart <= most_bits), strict=True):
            if i < start + j and _unlike(colours[i], colours[start + j]) <= unlike_cells:
                found.append((known[i], known[start + j], float(apart[j, i])))
    return sorted(found)


def pairs_between(
    hashes: Sequence[str | None], others: Sequence[str | None], most_bits: float, unlike_cells: float = UNLIKE_CELLS
) -> list[tuple[int, int, float]]:
    """(i, j, distance) of hashes[i] and others[j], at most `most_bits` apart; near_pairs() of both together, less those within each."""
    known, words, colours = _parsed(hashes)
    known_too, words_too, colours_too = _parsed(others)
    found = []
    step = max(1, CHUNK_PAIRS // max(1, len(words)))
    for start in range(0, len(words_too), step):
        apart = _distance(words_too[start : start + step], words)
        for j, i in zip(*np.nonzero(apart <= most_bits), strict=True):
            if _unlike(colours[i], colours_too[start + j]) <= unlike_cells:
                found.append((known[i], known_too[start + j], float(apart[j, i])))
    return sorted(found)


def _parsed(hashes: Sequence[str | None]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """(which have a hash, their steps, their colours)."""
    known = [i for i, text in enumerate(hashes) if text is not None]
    data = np.frombuffer(bytes.fromhex("".join(hashes[i] or "" for i in known)), np.uint8).reshape(-1, STEP_BYTES + COLOUR_BYTES)
    words = np.ascontiguousarray(data[:, :STEP_BYTES]).view(np.uint64).reshape(-1, HASHES, 4)
    return known, words, data[:, STEP_BYTES:].reshape(-1, FRAMES * 64, 3)


def _distance(new_NK4: np.ndarray, old_MK4: np.ndarray) -> np.ndarray:
    """(N, M), 0 to 64; infinite where too few steps count."""
    unlike, counted = (np.zeros((len(new_NK4), len(old_MK4)), np.uint16) for _ in range(2))
    for k in range(HASHES):
        rise, fall, rises, falls = (new_NK4[:, k, part, None] for part in range(4))
        rise_too, fall_too, rises_too, falls_too = (old_MK4[:, k, part] for part in range(4))
        unlike += np.bitwise_count((rises & ~rise_too) | (falls & ~fall_too) | (rises_too & ~rise) | (falls_too & ~fall))
        counted += np.bitwise_count(rises | falls | rises_too | falls_too)
    return np.where(counted >= LEAST_STEPS, 64 * unlike / np.maximum(counted, 1), np.inf)


def _unlike(a_CR: np.ndarray, b_CR: np.ndarray) -> float:
    """Share of the cells that differ in colour."""
    return float((np.abs(a_CR.astype(np.int16) - b_CR).max(1) > COLOUR_STEP).mean())
