"""Curation alone: clips, masks, latents, conditions."""

from __future__ import annotations

from prefect import flow
from prefect.states import Completed, State

from flows.curriculum import curated
from flows.pvtt import Overrides
from pvtt_model.recipes import RecipeName, recipe_by_name
from tasks.open_store import open_checked_store
from tasks.project import Project, named


@flow(name="curate", flow_run_name=named("curate {clips} for {recipe}"), description="clips -> masks -> latents -> conditions")
def curate(
    recipe: RecipeName = "nano",
    clips: str = "nano",
    overrides: Overrides = {},  # noqa: B006
    store: str | None = None,
    project: Project = None,
) -> State:
    """Raw clips to training shards.

    Args:
        recipe: the recipe by name
        clips: 'nano' for procedural clips, or a JSON Lines manifest, or a folder of clips: a path or s3://
        overrides: recipe fields by dotted path, e.g. {"stages.*.train.steps": 40}
        store: a folder or s3://bucket/prefix; the worker's PVTT_STORE where empty
        project: whose run it is, where several share the store; the worker's PVTT_PROJECT where empty
    """
    spec = recipe_by_name(recipe, overrides)
    uri = open_checked_store(store)
    data = curated(spec, clips, uri)
    return Completed(message="\n".join(f"{kind}: {uri}/{ref.name}" for kind, ref in data.items()))
