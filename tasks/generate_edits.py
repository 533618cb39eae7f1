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
from tasks.clip_table import Curated, clip_places, map_units
from tasks.edit_pairs import Pair, choose_pairs
from tasks.edit_work import ClipPlace, EditUnit, make_edit
from tasks.embed_conditions import EMPTY_TEXT
from tasks.policy import POLICY, produce
from tasks.tables import TABLE, attach_json, read_json
from tasks.train_stage import CLIPS, stage_index, trained_files
from tasks.ui import picture, show_markdown, table

SHEET = "contact_sheet.png"


@task(task_run_name="generate edits of stage {stage_name}", description="Held-out clips edited by the teacher", **POLICY)
def generate_edits(
    recipe: RecipeSpec, stage_name: str, checkpoint: ArtifactRef, curated: dict[str, ArtifactRef], store: str, partner: ArtifactRef | None = None
) -> ArtifactRef:
    """The edits artifact: one shard and three mp4s an edit, and a contact sheet. A failed edit is a row with its reason.

    partner: the checkpoint of the backbone's other expert, where an earlier stage trained it (recipe.partner_of).
    """
    data = Curated(**curated)
    stage = recipe.stages[stage_index(recipe, stage_name)]
    names = (data.clips.name, data.masks.name, data.latents.name, data.conditions.name)
    planned = edits_artifact(recipe, stage, checkpoint.name, *names, partner.name if partner else None)
    return produce(planned, store, lambda s, p: _make(s, p, recipe, stage_name, checkpoint, data, partner), lambda s, m: _show(s, m, stage_name))


def _make(
    store: ArtifactStore, planned: Planned, recipe: RecipeSpec, stage_name: str, checkpoint: ArtifactRef, data: Curated, partner: ArtifactRef | None
) -> Manifest:
    from pvtt_model.data.shards import read_row
    from pvtt_model.evaluation.contact_sheet import contact_sheet

    index = stage_index(recipe, stage_name)
    stage = recipe.stages[index]
    places = sorted((pf for pf in clip_places(store, data).values() if pf[1]["split"] != "validation"), key=lambda pf: pf[0].clip_key)
    held_out = [pf for pf in places if pf[1]["held_out"]] if stage.edit.clips == "held_out" else places
    pool = held_out or places
    pairs = choose_pairs(pool[: stage.edit.max_clips], stage.edit.reference == "swap", pool, "wrong_reference" in stage.edit.baselines)
    trained = store.manifest(checkpoint)
    files_of, empty = tuple(trained_files(trained).values()), store.manifest(data.conditions).file(EMPTY_TEXT)
    made_with = [stage.edit, stage.backbone, stage.reference, stage.lora, recipe.latents]
    spec: list[Any] = [part.identity() for part in made_with]
    spec += [stage.parallel.precision, recipe.conditions.max_text_tokens, recipe.conditions.product_words]
    spec += [*(file.sha256 for file in files_of), empty.sha256, REVISIONS["edits"]]
    partners = tuple(trained_files(store.manifest(partner)).values()) if partner else ()
    if partners:
        spec.append([file.sha256 for file in partners])
    keys = [digest("edits", spec, *(_hashes(place) for place in pair)) for pair in pairs]
    units = [EditUnit(store.store.uri, key, recipe, index, *pair, files_of, empty, partners) for key, pair in zip(keys, pairs, strict=True)]
    gpus = 0.0 if stage.parallel.accelerator == "cpu" else 1.0
    records = map_units(store, make_edit, units, kind="edits", what=f"editing ({stage_name})", num_gpus=gpus)
    files = [file for record in records for file in record.files]
    rows = [_said(pair) | record.summary for pair, record in zip(pairs, records, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / SHEET
        shown = [read_row(store.local_path(record.files[0]), 0) for record in records[:12]]
        contact_sheet(shown, sheet, title=f"{recipe.name}, stage {stage_name}", total=len(records))
        files.append(store.attach(planned, SHEET, sheet))
    files.append(attach_json(store, planned, TABLE, rows))
    leaked = sorted(set(read_json(store, trained, CLIPS)) & {pair.template.clip_key for pair in pairs})
    done = sum(row["usable"] for row in rows)
    return store.commit(planned, files, {"stage": stage_name, "edits": len(rows), "failed": len(rows) - done, "on_training_clips": leaked})


def _said(pair: Pair) -> dict[str, Any]:
    return {"clip_key": pair.template.clip_key, "reference_key": pair.reference.clip_key, "wrong_key": pair.wrong.clip_key if pair.wrong else None}


def _hashes(place: ClipPlace | None) -> list[Any]:
    if place is None:
        return []
    return [place.clip_key, place.row, place.clips.sha256, place.masks.sha256, place.latents.sha256, place.conditions.sha256]


def _show(store: ArtifactStore, manifest: Manifest, stage_name: str) -> None:
    sheet = store.local_path(manifest.file(SHEET))
    text = f"## Edits after stage `{stage_name}`\n\n{picture(sheet, 'contact sheet')}\n\n"
    text += table(read_json(store, manifest), ["clip_key", "reference_key", "usable", "reason"])
    show_markdown(f"contact-sheet-{stage_name}", text, f"edits {manifest.version}")
