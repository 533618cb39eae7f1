"""Evaluation of one stage: its checkpoint is found or trained, then edits, report and gate."""

from __future__ import annotations

from prefect import flow
from prefect.states import Completed, Failed, State

from flows.curriculum import GateMissed, OnGateFailure, curated, judged, stage_or_last, trained, where_to_look
from flows.pvtt import Overrides
from pvtt_model.recipes import RecipeName, recipe_by_name
from tasks.open_store import open_checked_store
from tasks.project import Project, named


@flow(name="evaluate", flow_run_name=named("evaluate {recipe} on {clips}"), description="edits -> report -> gate of one stage")
def evaluate(
    recipe: RecipeName = "nano",
    clips: str = "nano",
    stage: str | None = None,
    overrides: Overrides = {},  # noqa: B006
    store: str | None = None,
    on_gate_failure: OnGateFailure = "recipe",
    project: Project = None,
) -> State:
    """Edit the held-out clips with a stage's teacher, score and judge them.

    Args:
        recipe: the recipe by name
        clips: 'nano' for procedural clips, or a JSON Lines manifest, or a folder of clips: a path or s3://
        stage: a stage's name; the recipe's last one where empty
        overrides: recipe fields by dotted path, e.g. {"stages.*.train.steps": 40}
        store: a folder or s3://bucket/prefix; the worker's PVTT_STORE where empty
        on_gate_failure: what a missed gate does: stop, continue, ask; 'recipe': as each stage says
        project: whose run it is, where several share the store; the worker's PVTT_PROJECT where empty
    """
    spec = recipe_by_name(recipe, overrides)
    name = stage_or_last(spec, stage)
    uri = open_checked_store(store)
    data = curated(spec, clips, uri)
    try:
        refs = judged(spec, name, trained(spec, data, name, uri), data, uri, on_gate_failure)
    except GateMissed as missed:
        return Failed(message=str(missed))
    return Completed(message=where_to_look(uri, refs.gate, refs.edits))
