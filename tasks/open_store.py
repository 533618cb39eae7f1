"""The first thing a run does: is the store there, and can it keep what we promise."""

from __future__ import annotations

from prefect import task

from infra.artifact_store import ArtifactStore
from infra.settings import settings
from tasks.lost_terminal import outlive_the_terminal
from tasks.policy import POLICY
from tasks.project import project_of_run, tag_run


@task(name="open_store", task_run_name="open the store", description="Reach the store; refuse one that ignores conditional puts", **POLICY)
def open_checked_store(store: str | None) -> str:
    """The store's absolute uri, of the run's project where PVTT_STORE names one each; the run is tagged with its project. Raises StoreRefused for a
    server that cannot create-if-absent."""
    outlive_the_terminal()
    project = project_of_run()
    if project:
        tag_run(project)
    uri = settings(store, project).store
    ArtifactStore.open(uri, settings(uri).cache)
    return uri
