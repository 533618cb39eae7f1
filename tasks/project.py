"""Whose run this is, of several people or projects in one place: the flow's parameter `project`, else the worker's PVTT_PROJECT, else nobody's.

No version has it in it, so projects share what they curate and train alike. It is in the run's name and tag, and says which releases are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from pydantic import AfterValidator, Field

from infra.artifact_store import ArtifactStore
from infra.release_registry import ReleaseRegistry
from infra.settings import PROJECT, PROJECT_TAG, checked_project, settings

#: Of the flows' parameter: refused by the server where a run is made, and by the flow. The pattern is the form's.
Project = Annotated[str, AfterValidator(checked_project), Field(json_schema_extra={"pattern": PROJECT})] | None


def project_of_run() -> str | None:
    """The project of the flow run that this is called in."""
    return settings(project=_parameters().get("project")).project


def registry_of_run(store: str) -> ReleaseRegistry:
    """The releases in that store of the run's project."""
    return ReleaseRegistry(ArtifactStore.open(store, settings(store).cache), project_of_run())


def named(template: str) -> Callable[[], str]:
    """For `flow_run_name`: the template filled with the run's parameters, behind the project where there is one."""

    def name() -> str:
        words = template.format(**_parameters())
        project = project_of_run()
        return f"{project}: {words}" if project else words

    return name


def _parameters() -> dict[str, Any]:
    context = FlowRunContext.get()
    return dict(context.parameters or {}) if context else {}


def tag_run(project: str) -> None:
    """By `project:<project>` the UI and `pvtt status` find it."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, tags=sorted({*context.flow_run.tags, f"{PROJECT_TAG}{project}"}))
    except Exception as error:
        get_run_logger().warning("the run could not be tagged %s%s: %s", PROJECT_TAG, project, error)
