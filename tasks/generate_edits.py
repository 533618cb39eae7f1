"""Edits: the held-out clips with another product in them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from prefect import task

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest, Planned, digest
from pvtt_model.chain import edits_artifact
from pvtt_model.specs import RecipeSpec
from tasks.clip_table import TABLE, Curated, attach_json, clip_places, map_units, read_json
from tasks.edit_work import ClipPlace, EditUnit, make_edit
from tasks.embed_conditions import EMPTY_TEXT
from tasks.policy import POLICY, produce
from tasks.train_stage import ADAPTER, CLIPS, LORA, stage_index
from tasks.ui import picture, show_markdown, table

SHEET = "contact_sheet.png"


@task(task_run_name="generate edits of stage {stage_name}", description="Held-out clips edited by the teacher", **POLICY)
def generate_edits(recipe: RecipeSpec, stage_name: str, checkpoint: ArtifactRef, curated: dict[str, ArtifactRef], store: str) -> ArtifactRef:
    """The edits artifact: one shard and three mp4s an edit, and a contact sheet. A failed edit is a row with its reason."""
    data = Curated(**curated)
    stage = recipe.stages[stage_index(recipe, stage_name)]
    planned = edits_artifact(recipe, stage, checkpoint.name, data.clips.name, data.masks.name, data.latents.name, data.conditions.name)
    return produce(planned, store, lambda s, p: _make(s, p, recipe, stage_name, checkpoint, data), lambda s, m: _show(s, m, stage_name))


def choose_pairs(places: list[tuple[ClipPlace, dict[str, Any]]], swap: bool) -> list[tuple[ClipPlace, ClipPlace]]:
    """(template, reference) clips. swap: the next clip, in order, that shows another product; its own where there is none."""
    pairs = []
    for i, (template, fact) in enumerate(places):
        others = places[i + 1 :] + places[:i] if swap else []
        other = next((place for place, its in others if its["product_id"] != fact["product_id"]), template)
        pairs.append((template, other))
    return pairs


def _make(store: ArtifactStore, planned: Planned, recipe: RecipeSpec, stage_name: str, checkpoint: ArtifactRef, data: Curated) -> Manifest:
    from pvtt_model.data.shards import read_row
    from pvtt_model.evaluation.contact_sheet import contact_sheet

    index = stage_index(recipe, stage_name)
    stage = recipe.stages[index]
    places = sorted(clip_places(store, data).values(), key=lambda pf: pf[0].clip_key)
    held_out = [pf for pf in places if pf[1]["held_out"]] if stage.edit.clips == "held_out" else places
    pairs = choose_pairs((held_out or places)[: stage.edit.max_clips], stage.edit.reference == "swap")
    trained = store.manifest(checkpoint)
    lora, adapter, empty = trained.file(LORA), trained.file(ADAPTER), store.manifest(data.conditions).file(EMPTY_TEXT)
    made_with = [stage.edit, stage.backbone, stage.reference, stage.lora, recipe.latents]
    spec: list[Any] = [part.identity() for part in made_with]
    spec += [stage.parallel.precision, recipe.conditions.max_text_tokens, lora.sha256, adapter.sha256, empty.sha256, REVISIONS["edits"]]
    units = [EditUnit(store.store.uri, digest("edits", spec, _hashes(t), _hashes(r)), recipe, index, t, r, lora, adapter, empty) for t, r in pairs]
    gpus = 0.0 if stage.parallel.accelerator == "cpu" else 1.0
    records = map_units(store, make_edit, units, kind="edits", what=f"editing ({stage_name})", num_gpus=gpus)
    files = [file for record in records for file in record.files]
    rows = [{"clip_key": t.clip_key, "reference_key": r.clip_key, **rec.summary} for (t, r), rec in zip(pairs, records, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / SHEET
        shown = [read_row(store.local_path(record.files[0]), 0) for record in records[:12]]
        contact_sheet(shown, sheet, title=f"{recipe.name}, stage {stage_name}")
        files.append(store.attach(planned, SHEET, sheet))
    files.append(attach_json(store, planned, TABLE, rows))
    leaked = sorted(set(read_json(store, trained, CLIPS)) & {t.clip_key for t, _ in pairs})
    done = sum(row["usable"] for row in rows)
    return store.commit(planned, files, {"stage": stage_name, "edits": len(rows), "failed": len(rows) - done, "on_training_clips": leaked})


def _hashes(place: ClipPlace) -> list[Any]:
    return [place.clip_key, place.row, place.clips.sha256, place.masks.sha256, place.latents.sha256, place.conditions.sha256]


def _show(store: ArtifactStore, manifest: Manifest, stage_name: str) -> None:
    sheet = store.local_path(manifest.file(SHEET))
    text = f"## Edits after stage `{stage_name}`\n\n{picture(sheet, 'contact sheet')}\n\n"
    text += table(read_json(store, manifest), ["clip_key", "reference_key", "usable", "reason"])
    show_markdown(f"contact-sheet-{stage_name}", text, f"edits {manifest.version}")
