"""The report: every edit scored, every edit accounted for."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task

from infra.artifact_store import ArtifactStore, Derived
from infra.settings import settings
from infra.store import ObjectMissing
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest, Planned, StoredFile, digest
from pvtt_model.chain import report_artifact
from pvtt_model.specs import EvalSpec, RecipeSpec
from tasks.clip_table import map_units
from tasks.generate_edits import SHEET
from tasks.leaks import leaks_of
from tasks.pieces import whole_facts
from tasks.policy import POLICY, produce
from tasks.score_work import ScoreUnit, missing, networks_of, score_one
from tasks.tables import read_json
from tasks.train_stage import stage_index
from tasks.ui import show_markdown

if TYPE_CHECKING:
    from pvtt_model.evaluation.report import Report

REPORT, PAGE, CSV, GALLERY = "report.json", "report.html", "edits.csv", "gallery.parquet"


@task(task_run_name="score edits of stage {stage_name}", description="Metrics of every edit, with their extractors", **POLICY)
def score_edits(recipe: RecipeSpec, stage_name: str, edits: ArtifactRef, store: str) -> ArtifactRef:
    """The report artifact: report.json, report.html (self-contained), edits.csv; with a judge, the gallery it chose from."""
    stage = recipe.stages[stage_index(recipe, stage_name)]
    opened = ArtifactStore.open(store, settings(store).cache)
    lost = [file.name for file in opened.missing(opened.manifest(edits).shards())]
    return produce(
        report_artifact(stage, edits.name, lost),
        store,
        lambda s, p: _make(s, p, recipe, stage_name, edits, lost),
        lambda s, m: _show(s, m, recipe, stage_name),
    )


def _make(store: ArtifactStore, planned: Planned, recipe: RecipeSpec, stage_name: str, edits: ArtifactRef, lost: Collection[str]) -> Manifest:
    from pvtt_model.evaluation.edit_scores import EditScores
    from pvtt_model.evaluation.report import aggregate
    from pvtt_model.evaluation.report_html import report_html
    from pvtt_model.evaluation.report_page.downloads import edits_csv
    from tasks.report_page import beside_report

    index = stage_index(recipe, stage_name)
    stage, made = recipe.stages[index], store.manifest(edits)
    behind = {name.split("/")[0]: store.manifest(name) for name in made.inputs}
    gallery, said = _gallery(store, made, behind["clips"], stage.evaluate) if stage.evaluate.judge else (None, [])
    spec = [stage.evaluate.identity(), gallery.sha256 if gallery else None, REVISIONS["reports"]]
    table = read_json(store, made)
    units = [
        ScoreUnit(store.store.uri, digest("reports", spec, file.sha256), recipe, index, file, said_of, gallery)
        for file, said_of in zip(made.shards(), table, strict=True)
    ]
    gpus = 0.0 if stage.parallel.accelerator == "cpu" else 1.0
    there = [unit for unit in units if unit.edit.name not in lost]
    scored = map_units(store, score_one, there, kind="reports", what=f"scoring ({stage_name})", num_gpus=gpus)
    records = _accounted(store, units, lost, scored)
    groups = [said_of.get("groups") or {} for said_of in table]  # of today's table: a score found again may be older than its groups
    scores = [EditScores.model_validate(record.summary | {"groups": its}) for record, its in zip(records, groups, strict=True)]
    said = _curation(behind["clips"].summary, behind["masks"].summary) + said
    of_set, of_distances = _distances(store, records, stage.evaluate)
    report = aggregate(stage_name, scores, stage.evaluate, leaks=leaks_of(store, made), of_set=of_set, warnings=said + of_distances)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / REPORT).write_text(report.model_dump_json(indent=1))
        beside = beside_report(store, planned.name, recipe, report, made)
        report_html(report, None, sheet_of(store, made), folder / PAGE, beside)
        (folder / CSV).write_text(edits_csv(report), newline="")
        files = [store.attach(planned, part, folder / part) for part in (REPORT, PAGE, CSV)] + ([gallery] if gallery else [])
    return store.commit(planned, files, _summary(report))


def _accounted(store: ArtifactStore, units: list[ScoreUnit], lost: Collection[str], scored: Sequence[Derived]) -> list[Derived]:
    """Every edit's record. One that the store has lost is missing, also where its scores are recorded: nobody can look at it any more."""
    found = iter(scored)
    said = f"its file is not in {store.store.uri} any more"
    records = [missing(unit, f"{unit.edit.key}: {said}") if unit.edit.name in lost else next(found) for unit in units]
    _refuse_lost(store, units, records)
    return records


def _refuse_lost(store: ArtifactStore, units: list[ScoreUnit], records: list[Derived]) -> None:
    """A missing edit is counted where the store has lost it. Raises where this machine sees what a worker did not, and where all are lost."""
    gone = [unit.edit for unit, record in zip(units, records, strict=True) if record.summary["status"] == "missing"]
    still = set(store.missing(gone))
    seen = [file.name for file in gone if file not in still]
    if seen:
        raise ObjectMissing(f"a worker could not find {len(seen)} edits that are in {store.store.uri} ({seen[0]}, ..). Do all nodes reach the store?")
    if gone and len(gone) == len(units):
        raise ObjectMissing(f"all {len(units)} edits are gone from {store.store.uri}: nothing can be scored. Restore them, or make the edits again.")


def sheet_of(store: ArtifactStore, edits: Manifest) -> Path | None:
    """The contact sheet, or None where the store has lost it."""
    try:
        return store.local_path(edits.file(SHEET))
    except ObjectMissing:
        return None


def _summary(report: Report) -> dict[str, Any]:
    return {
        "stage": report.stage, "edits": report.edits, "done": report.edits_done, "missing": report.edits_missing,
        "checks_failed": report.checks_failed, "values": report.values(),
    }  # fmt: skip


def _distances(store: ArtifactStore, records: list[Derived], spec: EvalSpec) -> tuple[list[Any], list[str]]:
    """FVD and FID over all edits; the features of one are read at a time."""
    if spec.fvd is None and spec.fid is None:
        return [], []
    from safetensors.torch import load_file

    from pvtt_model.evaluation.set_distances import set_distances

    of_set_alone = spec.model_copy(update={"flow": None, "lpips": None})
    return set_distances((load_file(store.local_path(file)) for record in records for file in record.files), spec, networks_of(of_set_alone))


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


def _show(store: ArtifactStore, manifest: Manifest, recipe: RecipeSpec, stage_name: str) -> None:
    from pvtt_model.evaluation.report import Report
    from pvtt_model.evaluation.report_markdown import report_markdown
    from tasks.report_page import earlier_reports

    report = Report.model_validate_json(store.local_path(manifest.file(REPORT)).read_text())
    past = earlier_reports(store, recipe, stage_name, store.manifest(manifest.inputs[0]))
    show_markdown(f"report-{stage_name}", report_markdown(report, None, past), f"report {manifest.version}")
