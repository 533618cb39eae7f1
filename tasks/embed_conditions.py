"""Conditions: prompts and reference pictures through the frozen encoders."""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path

from prefect import task

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest, Planned, digest
from pvtt_model.backbones.weight_record import ENCODER_COLUMNS, ENCODERS, agreed, encoder_rows
from pvtt_model.chain import conditions_artifact
from pvtt_model.specs import RecipeSpec
from tasks.clip_table import first_clips, map_units, rows_of_clips
from tasks.pieces import REASONS, files_of, with_reasons
from tasks.policy import POLICY, produce
from tasks.shard_work import Unit, condition_shard, empty_text
from tasks.tables import attach_json
from tasks.ui import picture, show_markdown, table

EMPTY_TEXT, AUGMENTED = "empty_text.safetensors", "augmentations.png"
SHOWN_CLIPS = 12


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
    encoders = agreed([record.summary for record in (*records, empty)], planned.name)
    rows = rows_of_clips(store, store.manifest(clips), records, "conditions")
    files = files_of(records)
    files += [attach_json(store, planned, REASONS, with_reasons(rows)), empty.files[0].model_copy(update={"name": EMPTY_TEXT})]
    if recipe.conditions.reference_variants > 1:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / AUGMENTED
            _augmented(store, store.manifest(clips), recipe, path)
            files.append(store.attach(planned, AUGMENTED, path))
    captions = Counter(row["caption_source"] for row in rows)
    summary = {"clips": len(rows), "bytes": sum(f.bytes for f in files), "captions": dict(captions.most_common())}
    return store.commit(planned, files, summary | {"fallback_captions": sum(row["caption_fallback"] for row in rows), ENCODERS: encoders})


def _augmented(store: ArtifactStore, clips: Manifest, recipe: RecipeSpec, path: Path) -> None:
    """The first reference picture of the first training clips, a clip a line: as it is, then its variants."""
    import torch
    from torchvision.utils import save_image

    from pvtt_model.curation.conditions import reference_pictures, variants_of
    from pvtt_model.data.shards import read_row

    spec, shards = recipe.conditions, clips.shards()
    columns = ["clip_key", "split", "references"]
    rows = (read_row(store.local_path(shards[fact["shard"]]), fact["row"], columns) for fact in first_clips(store, clips))
    shown = islice((row for row in rows if variants_of(row, spec) > 1), SHOWN_CLIPS)
    lines = [torch.stack([reference_pictures(row, v, spec)[0] for v in range(spec.reference_variants)]) for row in shown]
    pictures = torch.cat(lines) if lines else torch.ones(1, 3, spec.image_size, spec.image_size)
    save_image(pictures, path, nrow=spec.reference_variants, padding=4, pad_value=1.0)


def _show(store: ArtifactStore, manifest: Manifest) -> None:
    said = manifest.summary
    shards = [{"shard": f.name, "rows": f.rows, "bytes": f.bytes, "sha256": f.sha256[:12]} for f in manifest.files if f.rows is not None]
    encoders = table(encoder_rows(said[ENCODERS]), ENCODER_COLUMNS)
    captions = table([{"captions from": source, "clips": n} for source, n in said["captions"].items()], ["captions from", "clips"])
    text = f"## Conditions of {said['clips']} clips\n\n{encoders}\n\n{captions}\n\n{said['fallback_captions']} captions are fallbacks."
    text += f"\n\n{table(shards, ['shard', 'rows', 'bytes', 'sha256'])}"
    if AUGMENTED in {file.name for file in manifest.files}:
        text += "\n\n### Reference pictures as they are, and their variants\n\n" + picture(store.local_path(manifest.file(AUGMENTED)), "variants")
    show_markdown("conditions", text, f"conditions {manifest.version}")
