"""Training alone, up to one stage."""

from __future__ import annotations

from prefect import flow
from prefect.states import Completed, State

from flows.curriculum import curated, stage_or_last, trained
from flows.pvtt import Overrides
from pvtt_model.recipes import RecipeName, recipe_by_name
from tasks.open_store import open_checked_store
from tasks.project import Project, named


@flow(name="train", flow_run_name=named("train {recipe} on {clips}"), description="a stage's checkpoint, and what it builds on")
def train(
    recipe: RecipeName = "nano",
    clips: str = "nano",
    stage: str | None = None,
    overrides: Overrides = {},  # noqa: B006
    store: str | None = None,
    project: Project = None,
) -> State:
    """Curate what is missing, then train the stages up to `stage`; no edits, no gate.

    Args:
        recipe: the recipe by name
        clips: 'nano' for procedural clips, or a JSON Lines manifest, or a folder of clips: a path or s3://
        stage: a stage's name; the recipe's last one where empty
        overrides: recipe fields by dotted path, e.g. {"stages.*.train.steps": 40}
        store: a folder or s3://bucket/prefix; the worker's PVTT_STORE where empty
        project: whose run it is, where several share the store; the worker's PVTT_PROJECT where empty
    """
    spec = recipe_by_name(recipe, overrides)
    until = stage_or_last(spec, stage)
    uri = open_checked_store(store)
    checkpoint = trained(spec, curated(spec, clips, uri), until, uri)[until]
    return Completed(message=f"checkpoint: {uri}/{checkpoint.name}")
