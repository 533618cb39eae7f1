"""A release moved in the registry, by a run."""

from __future__ import annotations

from typing import Literal

from prefect import get_run_logger, task
from prefect.context import get_run_context
from pydantic import BaseModel, ConfigDict

from infra.release_registry import ReleaseMoved
from pvtt_model.artifacts import ArtifactRef
from tasks.find_release import LastRelease
from tasks.policy import POLICY
from tasks.project import registry_of_run


class Moved(BaseModel):
    """Where the release stands now, and, where that is not where it was to go, why."""

    model_config = ConfigDict(frozen=True)

    stands: str
    why_not: str = ""


@task(task_run_name="move the release to {to}", description="candidate, staging or production, with the reason", **POLICY)
def move_release(
    release: ArtifactRef, to: Literal["candidate", "staging", "production"], why: str, evidence: list[str], last: LastRelease, store: str
) -> Moved:
    """Move it in the registry of the run's project, unless it was there before or is there now, was rolled back, or production has changed since
    `last` was found.

    A run promotes a release once: what a person took out of production afterwards, the next run does not put back.
    """
    registry = registry_of_run(store)
    recipe = str(registry.artifacts.manifest(release).summary["recipe"])
    standing = registry.standing(recipe)
    status, move = standing.of(release.name), standing.last_move(release.name)
    if move is not None and (status in ("production", "former", "rolled back") or {"staging": "staging", "kept back": "candidate"}.get(status) == to):
        why_not = "" if status in (to, "production") else f"it is '{status}', by {move.who} at {move.when}: {move.why}"
        return Moved(stands=status, why_not=why_not)
    try:
        registry.move(release.name, to, _run_name(), why, evidence, last.moves)
    except ReleaseMoved as lost:
        get_run_logger().warning("%s", lost)
        return Moved(stands=status, why_not=str(lost))
    return Moved(stands=to)


def _run_name() -> str:
    """The flow run, by its id: its name is made of the parameters."""
    return f"run {get_run_context().task_run.flow_run_id}"  # type: ignore[union-attr]
