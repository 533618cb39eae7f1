"""The columns of the PVTT benchmark's table, as its authors name them, with what each is and which way is better.

From the published weekly report (global-optima-research/pvtt-teacher-model-weekly-xiaohongrui, commit efd5db6, week 3, evaluation metrics).
The definitions are followed, the code is ours. CLIP is OpenAI's ViT-B/32, DINO is DINOv2 ViT-B/14, LPIPS has AlexNet. With any
other network a column carries its name in brackets: such a figure must not be held against published ones.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Network = Literal["clip", "dino", "lpips"]
Mode = Literal["compat", "fixed"]

PUBLISHED_NETWORKS: dict[Network, str] = {"clip": "openclip-vit-b32", "dino": "dinov2-vit-b14", "lpips": "lpips-alex"}


class Column(NamedTuple):
    name: str
    direction: Literal["higher", "lower", "context"]
    low: float
    high: float
    meaning: str
    network: Network | None = None
    fixed_only: bool = False  # what the published table lacks


COLUMNS = (
    Column("PSNR", "higher", 0, 100, "dB against the source; mean over frames; fixed: background alone"),
    Column("SSIM", "higher", -1, 1, "against the source, windows of 7 x 7; fixed: background alone"),
    Column("LPIPS", "lower", 0, 2, "against the source; fixed: background alone", "lpips"),
    Column("CLIP_tgt", "higher", -1, 1, "cosine of frame and target prompt", "clip"),
    Column("StructDist", "lower", 0, 2, "1 - cosine of the class tokens of frame and source; fixed: product greyed in both", "dino"),
    Column("MFS", "higher", -1, 1, "cosine of neighbouring frames", "clip"),
    Column("CLIP_dir", "higher", -1, 1, "cosine of the change of picture with the change of prompt", "clip"),
    Column("ProdCLIP", "higher", -1, 1, "cosine of the source mask's box with the product picture; fixed: masked, letterboxed, alpha kept", "clip"),
    Column("ProdPersist", "higher", 0, 1, "1 - deviation of ProdCLIP over frames / |its mean|", "clip"),
    Column("F0EditSSIM", "higher", -1, 1, "first frame against the right half of the collage it was made from"),
    Column("EditFid", "higher", -1, 1, "cosine of frame and source; fixed: product greyed in both", "clip"),
    Column("EditPersist", "higher", -1, 1, "SSIM of neighbouring frames; a frozen video scores 1"),
    Column("SubjectCons", "higher", -1, 1, "mean cosine of all pairs of 16 frames; fixed: of product crops", "dino"),
    Column("BgCons", "higher", -1, 1, "cosine of neighbours among 16 frames; fixed: product greyed", "clip"),
    Column("TempFlk", "higher", 0, 1, "1 - mean |difference of neighbouring frames| / 255; a frozen video scores 1"),
    Column("DynDeg_gen", "context", 0, float("inf"), "mean Farneback flow, px a frame"),
    Column("DynDeg_src", "context", 0, float("inf"), "the same of the source"),
    Column("DynDeg_delta", "context", float("-inf"), float("inf"), "generated - source; ideally near 0"),
    Column("MFS_src", "context", -1, 1, "MFS of the source", "clip", True),
    Column("EditPersist_src", "context", -1, 1, "EditPersist of the source", None, True),
    Column("SubjectCons_src", "context", -1, 1, "SubjectCons of the source", "dino", True),
    Column("BgCons_src", "context", -1, 1, "BgCons of the source", "clip", True),
    Column("TempFlk_src", "context", 0, 1, "TempFlk of the source", None, True),
    Column("near_static", "context", 0, 1, "1 where it moves under a fifth as much as the source: its consistency is flattery", None, True),
)


def columns_of(mode: Mode) -> tuple[Column, ...]:
    return tuple(column for column in COLUMNS if mode == "fixed" or not column.fixed_only)


def shown_name(column: Column, networks: dict[Network, str]) -> str:
    """The column's name, with the network's in brackets where that is not the published one with real weights."""
    if column.network is None or networks[column.network] == PUBLISHED_NETWORKS[column.network]:
        return column.name
    return f"{column.name}[{networks[column.network].split(' (')[0]}]"
