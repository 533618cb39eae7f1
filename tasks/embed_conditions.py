"""Conditions: prompts and reference pictures through the frozen encoders."""

from __future__ import annotations

from prefect import task

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest, Planned, digest
from pvtt_model.chain import conditions_artifact
from pvtt_model.specs import RecipeSpec
from tasks.clip_table import TABLE, attach_json, map_units
from tasks.policy import POLICY, produce
from tasks.shard_work import Unit, condition_shard, empty_text
from tasks.ui import show_markdown, table

EMPTY_TEXT = "empty_text.safetensors"


@task(task_run_name="embed conditions of {clips.version}", description="Text and image embeddings", **POLICY)
def embed_conditions(clips: ArtifactRef, recipe: RecipeSpec, store: str) -> ArtifactRef:
    """The conditions artifact, row by row beside the clips, and the empty prompt's embedding."""
    return produce(conditions_artifact(recipe, clips.name), store, lambda s, p: _make(s, p, clips, recipe), _show)


def _make(store: ArtifactStore, planned: Planned, clips: ArtifactRef, recipe: RecipeSpec) -> Manifest:
    spec = recipe.conditions.identity()
    units = [
        Unit(store.store.uri, "conditions", digest("conditions", spec, s.sha256, REVISIONS["conditions"]), i, recipe, (s,))
        for i, s in enumerate(store.manifest(clips).shards())
    ]
    gpus = 0.0 if recipe.stages[0].parallel.accelerator == "cpu" else 1.0
    records = map_units(store, condition_shard, units, kind="conditions", what="embedding conditions", num_gpus=gpus)
    nothing = Unit(store.store.uri, "conditions", digest("empty text", spec, REVISIONS["conditions"]), 0, recipe)
    (empty,) = map_units(store, empty_text, [nothing], kind="conditions", what="embedding the empty prompt", num_gpus=gpus)
    rows = [row for record in records for row in record.summary["conditions"]]
    files = [r.files[0].model_copy(update={"name": f"shard-{i:05d}.parquet"}) for i, r in enumerate(records)]
    files += [attach_json(store, planned, TABLE, rows), empty.files[0].model_copy(update={"name": EMPTY_TEXT})]
    names = {"text": recipe.conditions.text_encoder, "image": recipe.conditions.image_encoder}
    encoders = {kind: f"{model.architecture} ({model.weights})" for kind, model in names.items()}
    return store.commit(planned, files, {"clips": len(rows), "encoders": encoders, "bytes": sum(f.bytes for f in files)})


def _show(store: ArtifactStore, manifest: Manifest) -> None:
    said = manifest.summary
    shards = [{"shard": f.name, "rows": f.rows, "bytes": f.bytes, "sha256": f.sha256[:12]} for f in manifest.files if f.rows is not None]
    encoders = table([{"encoder": k, "weights": v} for k, v in said["encoders"].items()], ["encoder", "weights"])
    text = f"## Conditions of {said['clips']} clips\n\n{encoders}\n\n{table(shards, ['shard', 'rows', 'bytes', 'sha256'])}"
    show_markdown("conditions", text, f"conditions {manifest.version}")
