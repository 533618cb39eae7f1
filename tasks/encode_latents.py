"""Latents: every clip and its VACE context through the frozen VAE."""

from __future__ import annotations

from prefect import task

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest, Planned, digest
from pvtt_model.backbones.weight_record import ENCODER_COLUMNS, ENCODERS, agreed, encoder_rows
from pvtt_model.chain import latents_artifact
from pvtt_model.specs import RecipeSpec
from tasks.clip_table import TABLE, attach_json, map_units, read_json
from tasks.policy import POLICY, produce
from tasks.shard_work import Unit, latent_shard
from tasks.ui import show_markdown, table


@task(task_run_name="encode latents of {clips.version}", description="VAE latents of clip, inactive and reactive frames", **POLICY)
def encode_latents(clips: ArtifactRef, masks: ArtifactRef, recipe: RecipeSpec, store: str) -> ArtifactRef:
    """The latents artifact, row by row beside the clips and masks."""
    planned = latents_artifact(recipe, clips.name, masks.name)
    return produce(planned, store, lambda s, p: _make(s, p, clips, masks, recipe), _show)


def _make(store: ArtifactStore, planned: Planned, clips: ArtifactRef, masks: ArtifactRef, recipe: RecipeSpec) -> Manifest:
    pairs = list(zip(store.manifest(clips).shards(), store.manifest(masks).shards(), strict=True))
    spec = recipe.latents.identity()
    units = [
        Unit(store.store.uri, "latents", digest("latents", spec, c.sha256, m.sha256, REVISIONS["latents"]), i, recipe, (c, m))
        for i, (c, m) in enumerate(pairs)
    ]
    gpus = 0.0 if recipe.stages[0].parallel.accelerator == "cpu" else 1.0
    records = map_units(store, latent_shard, units, kind="latents", what="encoding latents", num_gpus=gpus)
    encoders = agreed([record.summary for record in records], planned.name)
    rows = [row for record in records for row in record.summary["latents"]]
    files = [r.files[0].model_copy(update={"name": f"shard-{i:05d}.parquet"}) for i, r in enumerate(records)]
    files.append(attach_json(store, planned, TABLE, rows))
    usable, size = sum(r["usable"] for r in rows), sum(f.bytes for f in files)
    return store.commit(planned, files, {"usable": usable, "clips": len(rows), "bytes": size, ENCODERS: encoders})


def _show(store: ArtifactStore, manifest: Manifest) -> None:
    said = manifest.summary
    shards = [{"shard": f.name, "rows": f.rows, "bytes": f.bytes, "sha256": f.sha256[:12]} for f in manifest.shards()]
    unusable = [row for row in read_json(store, manifest) if not row["usable"]]
    text = f"## Latents of {said['usable']} of {said['clips']} clips, {said['bytes'] / 1e6:.1f} MB\n\n"
    text += table(encoder_rows(said[ENCODERS]), ENCODER_COLUMNS) + "\n\n"
    text += table(shards, ["shard", "rows", "bytes", "sha256"])
    show_markdown("latents", f"{text}\n\n### Not usable\n\n{table(unusable, ['clip_key', 'reason'])}", f"latents {manifest.version}")
