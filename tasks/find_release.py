"""What the last release was made of, and what has come since."""

from __future__ import annotations

from prefect import get_run_logger, task

from infra.artifact_store import ArtifactStore
from infra.settings import settings
from pvtt_model.artifacts import ArtifactRef
from pvtt_model.specs import RecipeSpec
from tasks.ingest_clips import new_lines
from tasks.policy import POLICY


@task(task_run_name="find the last release of {recipe_name}", description="The clips of the newest release", **POLICY)
def find_released_clips(recipe_name: str, store: str) -> ArtifactRef | None:
    """The clips artifact of the newest release of the recipe; None where there is no release."""
    opened = ArtifactStore.open(store, settings(store).cache)
    releases = [m for m in opened.manifests("releases") if m.summary["recipe"] == recipe_name]
    if not releases:
        get_run_logger().info("no release of %s in %s yet: this is the first", recipe_name, store)
        return None
    return opened.ref(opened.manifest(releases[-1].summary["clips"]))


@task(task_run_name="count new clips of {clips}", description="Lines whose video is not in the released data", **POLICY)
def clips_added(clips: str, recipe: RecipeSpec, base: ArtifactRef, store: str) -> int:
    """Lines of the manifest, before probing, that `base` has not judged. A released clip whose prompt or reference changed stays."""
    opened = ArtifactStore.open(store, settings(store).cache)
    return len(new_lines(clips, recipe, opened.manifest(base), opened))
