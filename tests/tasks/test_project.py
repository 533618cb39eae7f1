"""A run's project: by the flow's parameter or the worker's setting; in its name and folders, in no version; what an event passes on."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.context import FlowRunContext
from prefect.exceptions import ParameterTypeError
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate
from prefect.utilities.schema_tools.validation import is_valid_schema, validate

from flows import on_push
from infra.settings import PROJECT
from pvtt_model import chain
from pvtt_model.recipes import recipe_by_name
from tasks.project import named, project_of_run
from tasks.train_seen import board_folder

FLOWS = [getattr(importlib.import_module(f"flows.{name}"), name) for name in ("pvtt", "curate", "train", "evaluate", "retrain")]


def of_run(**parameters: Any) -> FlowRunContext:
    return FlowRunContext.model_construct(parameters=parameters)


@pytest.fixture(autouse=True)
def _no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PVTT_PROJECT", raising=False)


def test_the_parameter_else_the_workers_setting_else_none(monkeypatch: pytest.MonkeyPatch) -> None:
    name = named("{recipe} on {clips}")
    given = {"recipe": "nano", "clips": "s3://x"}
    with of_run(**given, project=None):
        assert project_of_run() is None and name() == "nano on s3://x", "as it was before there were projects"
    with of_run(**given, project="mugs"):
        assert project_of_run() == "mugs" and name() == "mugs: nano on s3://x"
    monkeypatch.setenv("PVTT_PROJECT", "cups")
    with of_run(**given, project=None):
        assert name() == "cups: nano on s3://x"
    with of_run(**given, project="mugs"):
        assert project_of_run() == "mugs"
    assert project_of_run() == "cups", "outside of a run"


@pytest.mark.parametrize("flow", FLOWS, ids=lambda f: f.name)
def test_every_flows_form_asks_for_it_and_refuses_a_bad_one(flow: Any) -> None:
    schema = flow.parameters.model_dump_for_openapi()
    field = schema["properties"]["project"]
    assert field["default"] is None and "PVTT_PROJECT" in field["description"] and PROJECT in str(field)
    assert is_valid_schema(schema) is None
    assert not validate({"project": "mugs-2"}, schema) and not validate({"project": None}, schema) and not validate({}, schema)
    assert validate({"project": "A B"}, schema), "by the server, before the run is made"
    assert flow.validate_parameters({"project": "mugs-2"})["project"] == "mugs-2"
    with pytest.raises(ParameterTypeError, match="'A B' cannot be a project's name. Give 1 to 32"):
        flow.validate_parameters({"project": "A B"})


def test_no_version_knows_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def versions() -> list[str]:
        recipe = recipe_by_name("nano")
        clips = chain.clips_artifact(recipe, "content")
        masks, conditions = chain.masks_artifact(recipe, clips.name), chain.conditions_artifact(recipe, clips.name)
        latents = chain.latents_artifact(recipe, clips.name, masks.name)
        trained = chain.checkpoint_artifact(recipe, recipe.stages[0], latents.name, conditions.name, masks.name, clips.name, None)
        return [
            a.name for a in (clips, masks, conditions, latents, trained, chain.release_artifact(recipe, trained.name, ["reports/r"], ["gates/g"]))
        ]

    without = versions()
    monkeypatch.setenv("PVTT_PROJECT", "mugs")
    with of_run(project="cups"):
        assert versions() == without


def test_tensorboards_folder(tmp_path: Path) -> None:
    where, recipe = SimpleNamespace(home=tmp_path), recipe_by_name("nano")
    folder = board_folder(where, "abc", recipe, recipe.stages[0])
    assert folder == tmp_path / "tensorboard" / "abc" / "nano-verify"
    with of_run(project="mugs"):
        assert board_folder(where, "abc", recipe, recipe.stages[0]) == tmp_path / "tensorboard" / "mugs" / "abc" / "nano-verify"


def test_the_automation_passes_the_events_project_on() -> None:
    pushed: dict[str, Any] = {"clips": "s3://incoming/mugs", "recipe": "nano", "overrides": {"retrain.steps": 4}, "new": 3}

    def filled(payload: dict[str, Any]) -> Any:
        context = HydrationContext(raise_on_error=True, render_jinja=True, jinja_context={"event": {"payload": payload}})
        return hydrate(on_push.parameters(), context)

    wanted = {"clips": "s3://incoming/mugs", "recipe": "nano", "overrides": {"retrain.steps": 4}}
    assert filled(pushed | {"project": "mugs"}) == wanted | {"project": "mugs"}
    assert filled(pushed | {"project": None}) == wanted | {"project": None}
    assert filled(pushed) == wanted | {"project": None}, "an event of before"
