"""All columns of one benchmark task, in either mode. A column that cannot be had is None, and `reasons` says why."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from pvtt_model.evaluation.background_lpips import background_lpips
from pvtt_model.evaluation.benchmark.align import SIZE, SKIP, Aligned, align, lanczos
from pvtt_model.evaluation.benchmark.columns import Mode
from pvtt_model.evaluation.benchmark.embeddings import Networks, clip_frames, dino_frames
from pvtt_model.evaluation.benchmark.task_files import Task, TaskFrames
from pvtt_model.evaluation.benchmark.uniform_ssim import uniform_ssim
from pvtt_model.evaluation.crops import product_crops, reference_square
from pvtt_model.evaluation.dynamic_degree import dynamic_degree
from pvtt_model.evaluation.edit_direction import direction_of
from pvtt_model.evaluation.flicker import temporal_flicker
from pvtt_model.evaluation.in_product_psnr import flat_grey
from pvtt_model.evaluation.psnr import psnr_db
from pvtt_model.evaluation.sanity import STILL_SHARE
from pvtt_model.evaluation.similarity import embedded, side_of

CROP_MARGIN = 0.1  # of fixed mode's product crops, share of the box's side
SAMPLED = 16  # frames of the two consistencies
NO_MASKS = "no masks: product and background are not known"


class TaskRow(NamedTuple):
    values: dict[str, float | None]  # by the column's bare name; None: not to be had
    reasons: dict[str, str]  # why not

    def put(self, name: str, measure: Callable[[], float]) -> None:
        """The column's value, or None with the reason where measuring it raises ValueError."""
        try:
            self.values[name] = measure()
        except ValueError as error:
            self.lack(str(error), name)

    def lack(self, reason: str, *names: str) -> None:
        self.values.update(dict.fromkeys(names))
        self.reasons.update(dict.fromkeys(names, reason))


def task_row(task: Task, frames: TaskFrames, networks: Networks, mode: Mode, skip: int = SKIP, size: tuple[int, int] = SIZE) -> TaskRow:
    """The row of one task. Raises ValueError where its frames cannot be held against each other at all (see align)."""
    at, row = align(frames, mode, skip, size), TaskRow({}, {})
    _against_source(row, at, networks, mode)
    _by_clip(row, at, networks, mode, task)
    _by_dino(row, at, networks, mode)
    _product(row, at, networks, mode, frames)
    _over_time(row, at, mode)
    if frames.collage_CHW is None:
        row.lack("the edit was not made from a collage", "F0EditSSIM")
    else:
        right = frames.collage_CHW[:, :, frames.collage_CHW.shape[2] // 2 :]
        row.put("F0EditSSIM", lambda: float(uniform_ssim(lanczos(at.generated_TCHW[:1], (right.shape[1], right.shape[2])), right[None])))
    return row


def _against_source(row: TaskRow, at: Aligned, networks: Networks, mode: Mode) -> None:
    """PSNR, SSIM and LPIPS: means over frames; in fixed mode of the background, over the frames that have one."""
    made, source, ground = at.generated_TCHW, at.source_TCHW, None
    if mode == "fixed":
        if at.mask_THW is None:
            return row.lack(NO_MASKS, "PSNR", "SSIM", "LPIPS")
        some = (~at.mask_THW).flatten(1).any(dim=1)
        if not bool(some.any()):
            return row.lack("the masks cover every pixel: there is no background", "PSNR", "SSIM", "LPIPS")
        made, source, ground = made[some], source[some], ~at.mask_THW[some]
    mask = torch.zeros(len(made), *made.shape[-2:], dtype=torch.bool) if ground is None else ~ground
    each = [slice(t, t + 1) for t in range(len(made))]
    row.put("PSNR", lambda: float(np.mean([psnr_db(made[t], source[t], None if ground is None else ground[t]) for t in each])))
    row.put("SSIM", lambda: float(uniform_ssim(made, source, ground).mean()))
    lpips = networks.lpips
    if lpips is None:
        return row.lack("no LPIPS weights were given", "LPIPS")
    row.put("LPIPS", lambda: background_lpips(lpips, made, source, mask))


def _by_clip(row: TaskRow, at: Aligned, networks: Networks, mode: Mode, task: Task) -> None:
    """CLIP_tgt, MFS, CLIP_dir, EditFid, BgCons: of one CLIP pass over each video; in fixed mode one more with the product greyed."""
    made, source = (clip_frames(networks.clip, video) for video in (at.generated_TCHW, at.source_TCHW))
    words = networks.clip.embed_texts([task.source_prompt, task.target_prompt], unit=False).float().cpu()
    row.values["CLIP_tgt"] = float(F.cosine_similarity(made, words[1:]).mean())
    row.values["MFS"] = neighbours(made)
    if task.source_prompt.strip():
        row.put("CLIP_dir", lambda: direction_of(made, source, words))
    else:
        row.lack("the task has no source prompt", "CLIP_dir")
    if mode == "compat":
        row.values["EditFid"] = float(F.cosine_similarity(made, source).mean())
        row.values["BgCons"] = neighbours(made[sampled(len(made))])
        return
    row.values["MFS_src"] = neighbours(source)
    mask = at.mask_THW
    if mask is None:
        return row.lack(NO_MASKS, "EditFid", "BgCons", "BgCons_src")
    made_ground, source_ground = (clip_frames(networks.clip, flat_grey(video, mask)) for video in (at.generated_TCHW, at.source_TCHW))
    row.values["EditFid"] = float(F.cosine_similarity(made_ground, source_ground).mean())
    row.values["BgCons"], row.values["BgCons_src"] = (neighbours(ground[sampled(len(ground))]) for ground in (made_ground, source_ground))


def _by_dino(row: TaskRow, at: Aligned, networks: Networks, mode: Mode) -> None:
    """StructDist and SubjectCons."""
    videos, mask = (at.generated_TCHW, at.source_TCHW), at.mask_THW
    chosen = sampled(len(videos[0]))
    if mode == "compat":
        made, source = (dino_frames(networks.dino, video) for video in videos)
        row.values["StructDist"] = float((1 - F.cosine_similarity(made, source)).mean())
        row.values["SubjectCons"] = all_pairs(made[chosen])
        return
    if mask is None:
        return row.lack(NO_MASKS, "StructDist", "SubjectCons", "SubjectCons_src")
    made, source = (dino_frames(networks.dino, flat_grey(video, mask)) for video in videos)
    row.values["StructDist"] = float((1 - F.cosine_similarity(made, source)).mean())
    for name, video in zip(("SubjectCons", "SubjectCons_src"), videos, strict=True):
        row.put(name, partial(_subject_consistency, networks, video[chosen], mask[chosen]))


def _subject_consistency(networks: Networks, video_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> float:
    return all_pairs(embedded(networks.dino, product_crops(video_TCHW, mask_THW, CROP_MARGIN, side_of(networks.dino))))


def _product(row: TaskRow, at: Aligned, networks: Networks, mode: Mode, frames: TaskFrames) -> None:
    """ProdCLIP and ProdPersist, of one cosine a frame."""
    names = ("ProdCLIP", "ProdPersist")
    if frames.reference_CHW is None or not frames.masks:
        return row.lack("no product picture" if frames.reference_CHW is None else "no masks", *names)
    try:
        take = _published_cosines if mode == "compat" else _masked_cosines
        per_frame = take(at, networks, frames.reference_CHW)
    except ValueError as error:
        return row.lack(str(error), *names)
    mean = float(per_frame.mean())
    row.values["ProdCLIP"] = mean
    row.values["ProdPersist"] = 1.0 - min(1.0, float(per_frame.std(correction=0)) / (abs(mean) + 1e-8))


def _published_cosines(at: Aligned, networks: Networks, reference_CHW: torch.Tensor) -> torch.Tensor:
    """Of the mask's box with its background, and of the product picture cut to its middle square, whatever colour lies under its alpha."""
    reference = clip_frames(networks.clip, reference_CHW[None, :3])
    cut = [frame if box is None else frame[:, box[0] : box[1], box[2] : box[3]] for frame, box in zip(at.generated_TCHW, at.boxes, strict=True)]
    return F.cosine_similarity(torch.cat([clip_frames(networks.clip, crop[None]) for crop in cut]), reference)


def _masked_cosines(at: Aligned, networks: Networks, reference_CHW: torch.Tensor) -> torch.Tensor:
    """Of the masked product crop and the letterboxed product picture with its alpha; frames without a mask are left out."""
    assert at.mask_THW is not None
    clip = networks.clip
    crops = product_crops(at.generated_TCHW, at.mask_THW, CROP_MARGIN, clip.side)
    reference = embedded(clip, reference_square(reference_CHW, clip.side)[None])
    return F.cosine_similarity(embedded(clip, crops), reference)


def _over_time(row: TaskRow, at: Aligned, mode: Mode) -> None:
    """EditPersist, TempFlk and DynDeg; of a single frame 1, 1 and 0, as published."""
    made, source = at.generated_TCHW, at.source_TCHW
    alone = len(made) < 2
    for suffix, video in (("", made), ("_src", source)) if mode == "fixed" else (("", made),):
        row.values[f"EditPersist{suffix}"] = 1.0 if alone else float(uniform_ssim(video[:-1], video[1:]).mean())
        row.values[f"TempFlk{suffix}"] = 1.0 if alone else temporal_flicker(video)
    moved, moves = (0.0 if alone else dynamic_degree(video) for video in (made, source))
    row.values.update({"DynDeg_gen": moved, "DynDeg_src": moves, "DynDeg_delta": moved - moves})
    if mode == "fixed":
        row.values["near_static"] = float(moved < STILL_SHARE * moves)


def neighbours(embedded_TD: torch.Tensor) -> float:
    """Mean cosine of neighbours; 1 of a single frame, as published."""
    return 1.0 if len(embedded_TD) < 2 else float(F.cosine_similarity(embedded_TD[:-1], embedded_TD[1:]).mean())


def all_pairs(embedded_TD: torch.Tensor) -> float:
    """Mean cosine of all pairs; 1 of a single frame, as published."""
    count = len(embedded_TD)
    if count < 2:
        return 1.0
    unit = F.normalize(embedded_TD, dim=-1)
    cosines = unit @ unit.T
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


def sampled(count: int) -> list[int]:
    """At most 16 frames, evenly spaced, the first and last among them."""
    return [int(i) for i in np.linspace(0, count - 1, min(SAMPLED, count), dtype=int)]
