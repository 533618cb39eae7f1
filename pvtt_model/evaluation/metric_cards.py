"""Every metric on a card: what it is in a line, its range, which way is better, where it is from, and by whose network its bare name is earned.

The numbers themselves are Scores (report.py) and Distances (frechet.py), which carry extractor and N. A name's suffix says of which video
(_composited, _source, _ceiling, ...), a bracket which stand-in was used.
"""

from __future__ import annotations

from typing import NamedTuple

from pvtt_model.evaluation.edit_scores import Direction
from pvtt_model.evaluation.similarity import PUBLISHED

INF = float("inf")


class Card(NamedTuple):
    low: float
    high: float
    unit: str
    direction: Direction
    source: str
    meaning: str


CARDS: dict[str, Card] = {
    "clip_i": Card(-1, 1, "cosine", "higher", "arXiv:2103.00020; survey 9.1, goal > 0.85", "masked product crop against the reference"),
    "dino_i": Card(-1, 1, "cosine", "higher", "arXiv:2304.07193; survey 9.1, goal > 0.50", "the same, finer in texture and marks"),
    "clip_t": Card(-1, 1, "cosine", "higher", "arXiv:2104.08718; survey 9.5, goal > 0.25", "prompt against frames"),
    "edit_direction": Card(-1, 1, "cosine", "higher", "arXiv:2108.00946", "change of picture with change of prompt"),
    "fvd": Card(0, INF, "", "lower", "arXiv:1812.01717; survey 9.2, goal < 100", "distance of video features; nothing without N and extractor"),
    "fid": Card(0, INF, "", "lower", "arXiv:1706.08500; survey 9.2", "distance of frame features; nothing without N and extractor"),
    "frame_ssim": Card(-1, 1, "", "higher", "Wang et al. 2004; survey 9.3, goal > 0.90", "neighbouring frames; frozen scores 1: beside the source's"),
    "frame_motion": Card(0, 1, "of full range", "context", "ours", "mean difference of neighbouring frames"),
    "warp_error": Card(0, 1, "of full range", "lower", "arXiv:1808.00449; survey 9.3", "next frame along the flow, visible pixels; frozen scores 0"),
    "temporal_flicker": Card(0, 1, "", "higher", "arXiv:2311.17982", "1 - frame_motion; frozen scores 1: beside the source's"),
    "added_flicker": Card(0, 1, "of full range", "lower", "ours", "change between frames beyond the source's, outside the mask"),
    "dynamic_degree": Card(0, INF, "px a frame", "context", "Farnebäck 2003", "mean optical flow; should be near the source's"),
    "bg_psnr_db": Card(0, 100, "dB", "higher", "survey 9.4, goal > 30 dB", "outside the mask; beside the VAE's round trip"),
    "bg_ssim": Card(-1, 1, "", "higher", "Wang et al. 2004; survey 9.4, goal > 0.90", "outside the mask grown by 5 px"),
    "bg_lpips": Card(0, INF, "", "lower", "arXiv:1801.03924; survey 9.4", "outside the mask; beside the VAE's round trip"),
    "structure_distance": Card(0, 4, "", "lower", "arXiv:2201.00424", "self-similarity of the whole frame against the source's"),
    "in_product_psnr_db": Card(0, 100, "dB", "higher", "ours", "inside the right edit's product, where that is known"),
    "identity_top1": Card(0, 1, "share", "higher", "ours", "the right product is the nearest of the candidates"),
}


def card_of(name: str) -> Card | None:
    """The card of a metric as a report names it: the longest card name that it begins with; None where there is none."""
    known = [key for key in CARDS if name.partition("[")[0].startswith(key)]
    return CARDS[max(known, key=len)] if known else None


def cards_markdown() -> str:
    """The cards as a Markdown table."""
    head = "| metric | range | better | bare name earned by | measures | from |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| `{name}` | {_span(card)} | {card.direction if card.direction != 'context' else 'neither'} | {PUBLISHED.get(name, '-')} "
        f"| {card.meaning} | {card.source} |"
        for name, card in CARDS.items()
    )


def _span(card: Card) -> str:
    high = "any" if card.high == INF else f"{card.high:g}"
    return f"{card.low:g} to {high}{' ' + card.unit if card.unit else ''}"
