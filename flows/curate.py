"""Curation alone: clips, masks, latents, conditions."""

from __future__ import annotations

from prefect import flow
from prefect.states import Completed, State

from flows.curriculum import curated
from flows.pvtt import Clips, Overrides, Store
from pvtt_model.recipes import RecipeName, recipe_by_name
from tasks.open_store import open_checked_store


@flow(name="curate", flow_run_name="curate {clips} for {recipe}", description="clips -> masks -> latents -> conditions")
def curate(recipe: RecipeName = "nano", clips: Clips = "nano", overrides: Overrides = {}, store: Store = None) -> State:  # noqa: B006
    """Raw clips to training shards."""
    spec = recipe_by_name(recipe, overrides)
    uri = open_checked_store(store)
    data = curated(spec, clips, uri)
    return Completed(message="\n".join(f"{kind}: {uri}/{ref.name}" for kind, ref in data.items()))
