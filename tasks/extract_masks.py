"""Masks: the manifest's, thresholded and kept losslessly, or found where there is none; measured and judged."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task

from infra.artifact_store import ArtifactStore, Derived
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest, Planned, StoredFile, digest
from pvtt_model.backbones.weight_record import ENCODER_COLUMNS, ENCODERS, agreed, encoder_rows
from pvtt_model.chain import masks_artifact
from pvtt_model.curation.mask_risk import judged
from pvtt_model.specs import RecipeSpec
from tasks.clip_table import first_clips, map_units, rows_of_clips
from tasks.pieces import REASONS, by_shard, files_of, read_ahead, rows_beside, with_reasons
from tasks.policy import POLICY, produce
from tasks.shard_work import Unit, mask_shard
from tasks.tables import attach_json, read_json
from tasks.ui import MOST_ROWS, picture, show_markdown, table

OVERLAY = "overlay.png"
OVERLAY_CLIPS = 6


@task(task_run_name="extract masks of {clips.version}", description="One mask a frame, measured", **POLICY)
def extract_masks(clips: ArtifactRef, recipe: RecipeSpec, store: str) -> ArtifactRef:
    """The masks artifact: one shard a clips shard, row by row; a clip without a usable mask stays, marked, with its reason."""
    return produce(masks_artifact(recipe, clips.name), store, lambda s, p: _make(s, p, clips, recipe), lambda s, m: _show(s, m, clips, recipe))


def _make(store: ArtifactStore, planned: Planned, clips: ArtifactRef, recipe: RecipeSpec) -> Manifest:
    shards = store.manifest(clips).shards()
    spec = [recipe.masks.identity(), recipe.latents.video.num_frames]
    units = [Unit(store.store.uri, "masks", digest("masks", spec, s.sha256, REVISIONS["masks"]), i, recipe, (s,)) for i, s in enumerate(shards)]
    on_gpu = recipe.masks.finds_with_a_model and recipe.stages[0].parallel.accelerator == "gpu"

    def shown(found: Sequence[Derived]) -> None:  # by `_show`, which judges every row
        read_ahead(store, [record.files[1] for record in found])

    records = map_units(store, mask_shard, units, kind="masks", what="extracting masks", num_gpus=float(on_gpu), meanwhile=shown)
    encoders = agreed([record.summary for record in records], planned.name)
    rows = rows_of_clips(store, store.manifest(clips), records, "masks")
    files = files_of(records)
    usable = sum(row["usable"] for row in rows)
    if not usable:
        text = table(rows, ["clip_key", "provenance", "area", "reason"])
        show_markdown("masks", f"No mask can be used.\n\n{text}", "no mask can be used")
        raise ValueError(f"not one of {len(rows)} masks can be used.\n\n{text}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / OVERLAY
        _overlay(store, store.manifest(clips), [r.files[0] for r in records], recipe, path)
        files.append(store.attach(planned, OVERLAY, path))
    files.append(attach_json(store, planned, REASONS, with_reasons(rows)))
    provenance = {p: sum(row["provenance"] == p for row in rows) for p in sorted({row["provenance"] for row in rows})}
    return store.commit(planned, files, {"usable": usable, "refused": len(rows) - usable, "provenance": provenance, ENCODERS: encoders})


def _overlay(store: ArtifactStore, clips: Manifest, masks: list[StoredFile], recipe: RecipeSpec, path: Path) -> None:
    """First, middle and last frame of the first clips with the mask tinted, one clip a row; whole frames, letterboxed to width x height."""
    import torch
    from torchvision.transforms.functional import pil_to_tensor
    from torchvision.utils import save_image

    from pvtt_model.curation.frames import as_seen
    from pvtt_model.curation.masks import overlay
    from pvtt_model.data.shards import read_row
    from pvtt_model.data.video_io import decode, png_mask
    from pvtt_model.evaluation.pictures import letterboxed, to_image

    shards = clips.shards()
    rows: list[Any] = []
    for fact in first_clips(store, clips):
        if len(rows) == 3 * OVERLAY_CLIPS:
            break
        clips_path, masks_path, i = store.local_path(shards[fact["shard"]]), store.local_path(masks[fact["shard"]]), fact["row"]
        mask = read_row(masks_path, i)
        if mask["usable"]:
            count, video = len(mask["mask"]), recipe.latents.video
            pick = [0, count // 2, count - 1]
            frames = decode(as_seen(read_row(clips_path, i))["video"], count)[pick]
            shown = overlay(frames, torch.stack([png_mask(mask["mask"][frame]) for frame in pick]))
            rows += [pil_to_tensor(letterboxed(to_image(frame), video.width, video.height)) for frame in shown]
    pictures = torch.stack(rows).float() / 255 if rows else torch.ones(1, 3, 32, 32)
    factor = max(1, 200 // pictures.shape[-1])
    save_image(pictures.repeat_interleave(factor, 2).repeat_interleave(factor, 3), path, nrow=3, padding=4, pad_value=1.0)


def _show(store: ArtifactStore, manifest: Manifest, clips: ArtifactRef, recipe: RecipeSpec) -> None:
    """The table with `risk` by the recipe's thresholds as they are now; the artifact holds the figures alone."""
    said, at_risk = manifest.summary, 0
    refused, risky, fine = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()  # shown in this order
    facts = read_json(store, store.manifest(clips))
    for its, of_shard in zip(rows_beside(store, manifest, facts), by_shard(facts).values(), strict=True):
        for row in judged(its, of_shard, recipe.masks):
            at_risk += bool(row["risks"])
            kind = refused if not row["usable"] else risky if row["risks"] else fine
            if len(kind) < MOST_ROWS:
                kind.append(row)
    first = [*refused, *risky, *fine][:MOST_ROWS]
    columns = ["clip_key", "usable", "provenance", "area", "area_max", "jitter_px", "gaps", "temporal_iou", "quality", "match", "agreement"]
    columns += ["compared_with", "risk", "reason"]
    text = f"## {said['usable']} masks usable, {at_risk} of them at risk, {said['refused']} refused\n\n"
    text += picture(store.local_path(manifest.file(OVERLAY)), "masks", 700) + "\n\n"
    if said[ENCODERS]:
        text += table(encoder_rows(said[ENCODERS]), ENCODER_COLUMNS) + "\n\n"
    shown = [row | {"risk": "; ".join(row["risks"].values()) or None} for row in first]
    text += table(shown, columns, said["usable"] + said["refused"])
    show_markdown("masks", text, f"masks {manifest.version}")
