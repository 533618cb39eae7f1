"""The report: every edit scored, every edit accounted for."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

from prefect import task

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest, Planned, StoredFile, digest
from pvtt_model.chain import report_artifact
from pvtt_model.specs import EvalSpec, RecipeSpec
from tasks.clip_table import map_units
from tasks.edit_work import ScoreUnit, score_one
from tasks.generate_edits import SHEET
from tasks.pieces import whole_facts
from tasks.policy import POLICY, produce
from tasks.tables import read_json
from tasks.train_stage import stage_index
from tasks.ui import show_markdown

REPORT, PAGE, CSV, GALLERY = "report.json", "report.html", "edits.csv", "gallery.parquet"


@task(task_run_name="score edits of stage {stage_name}", description="Metrics of every edit, with their extractors", **POLICY)
def score_edits(recipe: RecipeSpec, stage_name: str, edits: ArtifactRef, store: str) -> ArtifactRef:
    """The report artifact: report.json, report.html (self-contained), edits.csv; with a judge, the gallery it chose from."""
    stage = recipe.stages[stage_index(recipe, stage_name)]
    return produce(
        report_artifact(stage, edits.name), store, lambda s, p: _make(s, p, recipe, stage_name, edits), lambda s, m: _show(s, m, stage_name)
    )


def _make(store: ArtifactStore, planned: Planned, recipe: RecipeSpec, stage_name: str, edits: ArtifactRef) -> Manifest:
    from pvtt_model.evaluation.edit_scores import EditScores
    from pvtt_model.evaluation.report import aggregate
    from pvtt_model.evaluation.report_html import report_html

    index = stage_index(recipe, stage_name)
    stage, made = recipe.stages[index], store.manifest(edits)
    behind = {name.split("/")[0]: store.manifest(name) for name in made.inputs}
    gallery, said = _gallery(store, made, behind["clips"], stage.evaluate) if stage.evaluate.judge else (None, [])
    spec = [stage.evaluate.identity(), gallery.sha256 if gallery else None, REVISIONS["reports"]]
    units = [ScoreUnit(store.store.uri, digest("reports", spec, f.sha256), recipe, index, f, gallery) for f in made.shards()]
    gpus = 0.0 if stage.parallel.accelerator == "cpu" else 1.0
    records = map_units(store, score_one, units, kind="reports", what=f"scoring ({stage_name})", num_gpus=gpus)
    scores = [EditScores.model_validate(record.summary) for record in records]
    said = _curation(behind["clips"].summary, behind["masks"].summary) + said
    report = aggregate(stage_name, scores, stage.evaluate, on_training_clips=bool(made.summary["on_training_clips"]), warnings=said)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / REPORT).write_text(report.model_dump_json(indent=1))
        report_html(report, None, store.local_path(made.file(SHEET)), folder / PAGE)
        columns = list(dict.fromkeys(key for edit in scores for key in edit.scores))
        with (folder / CSV).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["clip_key", "reference_key", "status", "reason", *columns])
            for edit in scores:
                values = [edit.scores[c].value if c in edit.scores else None for c in columns]
                writer.writerow([edit.clip_key, edit.reference_key, edit.status, edit.reason, *values])
        files = [store.attach(planned, part, folder / part) for part in (REPORT, PAGE, CSV)] + ([gallery] if gallery else [])
    return store.commit(planned, files, {"stage": stage_name, "edits": report.edits, "done": report.edits_done, "values": report.values()})


def _gallery(store: ArtifactStore, edits: Manifest, clips: Manifest, spec: EvalSpec) -> tuple[StoredFile, list[str]]:
    """The held-out products, and those the edits show, with their reference pictures, as one pooled file; and what is to be said of it."""
    from pvtt_model.data.shards import read_row, write_shard
    from pvtt_model.evaluation.gallery import SCHEMA, gallery_rows

    used = {row[key] for row in read_json(store, edits) for key in ("reference_key", "wrong_key")}
    facts = sorted(read_json(store, clips), key=lambda fact: fact["clip_key"])
    facts = whole_facts(store, clips, [f for f in facts if (f["held_out"] and f["split"] != "validation") or f["clip_key"] in used])
    chosen = gallery_rows([{"product_id": f["product_id"], "look_alikes": f.get("look_alikes"), "fact": f} for f in facts])
    shards = clips.shards()
    rows = []
    for row in chosen:
        fact = row.pop("fact")
        path = store.local_path(shards[fact["shard"]])
        rows.append({**row, "pictures": read_row(path, fact["row"], ["references"])["references"]})
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / GALLERY
        write_shard(path, rows, SCHEMA)
        file = store.pool(path, GALLERY)
    if len(rows) >= spec.candidates:
        return file, []
    return file, [f"The judge chose among {len(rows)} products, {spec.candidates} were asked for (evaluate.candidates): no more are held out."]


def _curation(clips: dict[str, Any], masks: dict[str, Any]) -> list[str]:
    """What curation refused, counted, from the summaries of the artifacts the edits were made of."""
    said = [f"Data: {clips['accepted']} clips of {clips['products']} products accepted, {clips['refused']} refused; {clips['held_out']} held out."]
    if clips["refused"]:
        said.append("Refused lines: " + ", ".join(f"{n} {kind}" for kind, n in sorted(clips["refused_by_kind"].items())) + ".")
    if masks["refused"]:
        said.append(
            f"{masks['refused']} of {masks['refused'] + masks['usable']} masks could not be used; their clips were neither trained on nor edited."
        )
    return said


def _show(store: ArtifactStore, manifest: Manifest, stage_name: str) -> None:
    from pvtt_model.evaluation.report import Report
    from pvtt_model.evaluation.report_markdown import report_markdown

    report = Report.model_validate_json(store.local_path(manifest.file(REPORT)).read_text())
    show_markdown(f"report-{stage_name}", report_markdown(report), f"report {manifest.version}")
