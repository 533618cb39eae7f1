"""Latents: every clip and its VACE context through the frozen VAE."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import task

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest, Planned, StoredFile, digest
from pvtt_model.backbones.weight_record import ENCODER_COLUMNS, ENCODERS, agreed, encoder_rows
from pvtt_model.chain import latents_artifact
from pvtt_model.specs import RecipeSpec
from tasks.clip_table import first_clips, map_units, rows_of_clips
from tasks.pieces import REASONS, files_of, reasons, with_reasons
from tasks.policy import POLICY, produce
from tasks.shard_work import Unit, latent_shard
from tasks.tables import attach_json
from tasks.ui import picture, show_markdown, table

VARIANTS = "variants.png"
SHOWN_CLIPS = 6


@task(task_run_name="encode latents of {clips.version}", description="VAE latents of clip, inactive and reactive frames", **POLICY)
def encode_latents(clips: ArtifactRef, masks: ArtifactRef, recipe: RecipeSpec, store: str) -> ArtifactRef:
    """The latents artifact, row by row beside the clips and masks."""
    planned = latents_artifact(recipe, clips.name, masks.name)
    return produce(planned, store, lambda s, p: _make(s, p, clips, masks, recipe), _show)


def _make(store: ArtifactStore, planned: Planned, clips: ArtifactRef, masks: ArtifactRef, recipe: RecipeSpec) -> Manifest:
    pairs = list(zip(store.manifest(clips).shards(), store.manifest(masks).shards(), strict=True))
    spec = recipe.latents.identity()
    if recipe.latents.video_variants > 1:  # their frames are judged by these, too
        spec |= {"masks": recipe.masks.identity(), "cut_value": recipe.clips.cut_value}
    units = [
        Unit(store.store.uri, "latents", digest("latents", spec, c.sha256, m.sha256, REVISIONS["latents"]), i, recipe, (c, m))
        for i, (c, m) in enumerate(pairs)
    ]
    gpus = 0.0 if recipe.stages[0].parallel.accelerator == "cpu" else 1.0
    records = map_units(store, latent_shard, units, kind="latents", what="encoding latents", num_gpus=gpus)
    encoders = agreed([record.summary for record in records], planned.name)
    rows = rows_of_clips(store, store.manifest(clips), records, "latents")
    files = [*files_of(records), attach_json(store, planned, REASONS, with_reasons(rows))]
    said: dict[str, Any] = {"usable": sum(r["usable"] for r in rows), "clips": len(rows), "bytes": sum(f.bytes for f in files)}
    said[ENCODERS] = encoders
    if recipe.latents.video_variants > 1:
        said |= {"videos": sum(r["videos"] for r in rows), "fewer_videos": sum(r["usable"] and r["reason"] is not None for r in rows)}
    if recipe.latents.video_variants > 1 or recipe.latents.variants > 1:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / VARIANTS
            _variants(store, store.manifest(clips), pairs, recipe, path)
            files.append(store.attach(planned, VARIANTS, path))
    return store.commit(planned, files, said)


def _variants(store: ArtifactStore, table: Manifest, pairs: list[tuple[StoredFile, StoredFile]], recipe: RecipeSpec, path: Path) -> None:
    """The variants of the first usable training clips."""
    from pvtt_model.curation.video_variants import clip_variants
    from pvtt_model.data.shards import read_row
    from pvtt_model.evaluation.variant_sheet import variant_sheet

    def row(fact: dict[str, Any], which: int) -> dict[str, Any]:
        return read_row(store.local_path(pairs[fact["shard"]][which]), fact["row"])

    training = (fact for fact in first_clips(store, table) if fact["split"] not in ("validation", "eval"))
    found = ((fact, row(fact, 1)) for fact in training)
    rows = ((row(fact, 0), mask) for fact, mask in islice((pair for pair in found if pair[1]["usable"]), SHOWN_CLIPS))
    further = (recipe.latents, recipe.masks, recipe.clips.cut_value, recipe.clips.decode_timeout_s)
    variant_sheet(((clip, list(clip_variants(clip, mask, *further))) for clip, mask in rows), path)


def _show(store: ArtifactStore, manifest: Manifest) -> None:
    said = manifest.summary
    shards = [{"shard": f.name, "rows": f.rows, "bytes": f.bytes, "sha256": f.sha256[:12]} for f in manifest.shards()]
    rows = reasons(store, manifest)
    text = f"## Latents of {said['usable']} of {said['clips']} clips, {said['bytes'] / 1e6:.1f} MB\n\n"
    text += table(encoder_rows(said[ENCODERS]), ENCODER_COLUMNS) + "\n\n"
    text += table(shards, ["shard", "rows", "bytes", "sha256"])
    text += f"\n\n### Not usable\n\n{table([row for row in rows if not row['usable']], ['clip_key', 'reason'])}"
    if "videos" in said:
        fewer = [row for row in rows if row["usable"] and row["reason"]]
        text += f"\n\n### {said['videos']} video variants; fewer than asked for of {len(fewer)} clips\n\n"
        text += table(fewer, ["clip_key", "videos", "reason"])
    if VARIANTS in {file.name for file in manifest.files}:
        text += "\n\n### Variants of the first training clips\n\n" + picture(store.local_path(manifest.file(VARIANTS)), "variants", 1600)
    show_markdown("latents", text, f"latents {manifest.version}")
