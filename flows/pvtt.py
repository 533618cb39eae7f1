"""The whole curriculum: from raw clips to a judged release."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed, Failed, State

from flows.curriculum import GateMissed, OnGateFailure, StageRefs, curated, judged, where_to_look
from pvtt_model.artifacts import ArtifactRef
from pvtt_model.recipes import RecipeName, recipe_by_name
from pvtt_model.specs import RecipeSpec
from tasks.open_store import open_checked_store
from tasks.project import Project, named
from tasks.publish_release import publish_release
from tasks.train_stage import train_stage

Overrides = dict[str, Any]


@flow(name="pvtt", flow_run_name=named("{recipe} on {clips}"), description="clips -> masks -> latents -> conditions -> stages -> release")
def pvtt(
    recipe: RecipeName = "nano",
    clips: str = "nano",
    overrides: Overrides = {},  # noqa: B006  Prefect copies defaults into the deployment's form
    store: str | None = None,
    on_gate_failure: OnGateFailure = "recipe",
    project: Project = None,
) -> State[Any]:
    """Curate, then train, edit, judge and gate each stage, then release. Whatever is in the store already is not made again.

    Args:
        recipe: the recipe by name
        clips: 'nano' for procedural clips, or a JSON Lines manifest, or a folder of clips: a path or s3://
        overrides: recipe fields by dotted path, e.g. {"stages.*.train.steps": 40}
        store: a folder or s3://bucket/prefix; the worker's PVTT_STORE where empty
        on_gate_failure: what a missed gate does: stop, continue, ask; 'recipe': as each stage says
        project: whose run it is, where several share the store; the worker's PVTT_PROJECT where empty
    """
    spec = recipe_by_name(recipe, overrides)
    uri = open_checked_store(store)
    return run_curriculum(spec, curated(spec, clips, uri), uri, on_gate_failure)


def run_curriculum(spec: RecipeSpec, data: dict[str, ArtifactRef], uri: str, on_gate_failure: OnGateFailure) -> State[Any]:
    """All stages and the release, of curated data. A missed gate is a Failed state with the table as its message."""
    done: list[StageRefs] = []
    found: dict[str, ArtifactRef] = {}
    for stage in spec.stages:
        found[stage.name] = train_stage(spec, stage.name, data, done[-1].checkpoint if done else None, uri)
        try:
            done.append(judged(spec, stage.name, found, data, uri, on_gate_failure))
        except GateMissed as missed:
            return Failed(message=str(missed))
    checkpoints, edits, reports, gates = (list(refs) for refs in zip(*done, strict=True))
    release = publish_release(spec, data["clips"], checkpoints, edits, reports, gates, uri)
    return Completed(message=f"release: {uri}/{release.name}\n{where_to_look(uri, gates[-1], edits[-1])}")
