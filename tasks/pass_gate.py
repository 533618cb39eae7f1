"""The gate: the recipe's thresholds held against the report. What it says is an artifact; what follows is the flow's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from prefect import task
from pydantic import BaseModel, ConfigDict

from infra.artifact_store import ArtifactStore
from infra.settings import settings
from pvtt_model.artifacts import ArtifactRef, Manifest, Planned
from pvtt_model.chain import gate_artifact
from pvtt_model.specs import RecipeSpec
from tasks.policy import POLICY, produce
from tasks.score_edits import PAGE, REPORT, sheet_of
from tasks.tables import attach_json
from tasks.train_stage import stage_index
from tasks.ui import show_markdown

VERDICT = "verdict.json"


class GateOutcome(BaseModel):
    """What the flow decides by."""

    model_config = ConfigDict(frozen=True)

    ref: ArtifactRef
    passed: bool
    table: str


@task(task_run_name="pass gate of stage {stage_name}", description="Thresholds against the report", **POLICY)
def pass_gate(recipe: RecipeSpec, stage_name: str, report: ArtifactRef, store: str) -> GateOutcome:
    """The gate artifact (verdict.json, and the report's page with the gate in it) and its outcome. A missed gate is an outcome, not an error."""
    stage = recipe.stages[stage_index(recipe, stage_name)]
    ref = produce(gate_artifact(stage, report.name), store, lambda s, p: _make(s, p, recipe, stage_name, report), lambda s, m: _show(m, stage_name))
    said = ArtifactStore.open(store, settings(store).cache).manifest(ref).summary
    return GateOutcome(ref=ref, passed=said["passed"], table=said["table"])


def _make(store: ArtifactStore, planned: Planned, recipe: RecipeSpec, stage_name: str, report: ArtifactRef) -> Manifest:
    from pvtt_model.evaluation.gate import judge
    from pvtt_model.evaluation.report import Report
    from pvtt_model.evaluation.report_html import report_html
    from tasks.report_page import beside_report

    stage = recipe.stages[stage_index(recipe, stage_name)]
    scored = store.manifest(report)
    measured = Report.model_validate_json(store.local_path(scored.file(REPORT)).read_text())
    verdict = judge(measured, stage.gate)
    files = [attach_json(store, planned, VERDICT, verdict.model_dump(mode="json"))]
    sheet = sheet_of(store, store.manifest(scored.inputs[0]))
    with tempfile.TemporaryDirectory() as folder:
        beside = beside_report(store, planned.name, recipe, measured, store.manifest(scored.inputs[0]), scored)
        files.append(store.attach(planned, PAGE, report_html(measured, verdict, sheet, Path(folder) / PAGE, beside)))
    return store.commit(planned, files, {"stage": stage_name, "passed": verdict.passed, "message": verdict.message(), "table": verdict.markdown()})


def _show(manifest: Manifest, stage_name: str) -> None:
    said = manifest.summary
    word = "passed" if said["passed"] else "missed"
    show_markdown(f"gate-{stage_name}", f"## Gate of stage `{stage_name}`: {word}\n\n{said['table']}\n\n{said['message']}", f"gate {word}")
