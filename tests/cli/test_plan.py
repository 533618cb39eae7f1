"""`pvtt plan` through typer, on a real local store."""

from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from cli.plan import plan
from infra.artifact_store import ArtifactStore
from pvtt_model.nano.fingerprint import world_fingerprint
from pvtt_model.plan import planned_chain
from pvtt_model.recipes import recipe_by_name

app = typer.Typer()
app.command()(plan)


def run(*args: str):
    return CliRunner().invoke(app, list(args))


def test_what_exists_is_said(tmp_path):
    recipe = recipe_by_name("nano")
    clips = planned_chain(recipe, world_fingerprint(recipe.world))[0][1]
    ArtifactStore.open(str(tmp_path)).commit(clips, [])
    answer = run("nano", "--store", str(tmp_path), "--json")
    assert answer.exit_code == 0, answer.output
    states = {a["name"]: a["exists"] for a in json.loads(answer.stdout)["artifacts"]}
    assert states.pop(clips.name) is True and not any(states.values()) and len(states) == 17


def test_the_14b_curriculum_in_text(tmp_path):
    answer = run("full", "--store", str(tmp_path), "--set", "stages.verify.train.steps=5")
    assert answer.exit_code == 0, answer.output
    assert "5 of 32 samples" in answer.stdout and "frozen       17.34 B = base 14.29 B + VACE 3.05 B" in answer.stdout


def test_mistakes_are_refused_with_the_choices(tmp_path):
    for args, says in (
        (["nanu"], "Did you mean 'nano'"),
        (["nano", "--set", "stages.verify.train.step=5"], "Did you mean 'steps'"),
        (["nano", "--set", "stages"], "path=value"),
        (["nano", "--clips", str(tmp_path / "none.jsonl")], "none.jsonl"),
    ):
        answer = run(*args, "--store", str(tmp_path))
        assert answer.exit_code == 2 and says in answer.output, answer.output
