"""Re-training on what has come since the last release."""

from __future__ import annotations

from prefect import flow
from prefect.states import Completed, State

from flows.curriculum import OnGateFailure, curated
from flows.pvtt import Overrides, run_curriculum
from pvtt_model.recipes import RecipeName, recipe_by_name
from tasks.find_release import clips_added, find_released_clips
from tasks.open_store import open_checked_store


@flow(name="retrain", flow_run_name="retrain {recipe} on {clips}", description="the curriculum on the released data and what is new")
def retrain(
    recipe: RecipeName = "nano",
    clips: str = "nano",
    overrides: Overrides = {},  # noqa: B006
    store: str | None = None,
    on_gate_failure: OnGateFailure = "recipe",
) -> State:
    """The last release's clips stay as they are, new lines of the manifest are added and only they are curated; nothing new ends at once.

    Args:
        recipe: the recipe by name
        clips: 'nano' for procedural clips, or a JSON Lines manifest, or a folder of clips: a path or s3://
        overrides: recipe fields by dotted path, e.g. {"stages.*.train.steps": 40}
        store: a folder or s3://bucket/prefix; the worker's PVTT_STORE where empty
        on_gate_failure: what a missed gate does: stop, continue, ask; 'recipe': as each stage says
    """
    spec = recipe_by_name(recipe, overrides)
    uri = open_checked_store(store)
    base = find_released_clips(spec.name, uri)
    if base is not None and clips_added(clips, spec, base, uri) == 0:
        return Completed(name="NothingNew", message=f"every clip of {clips} is in the last release's {base.name}; nothing to train")
    return run_curriculum(spec, curated(spec, clips, uri, base), uri, on_gate_failure)
