"""`pvtt releases` through typer: what stands where, promote, rollback, history; and which teacher `pvtt edit` then takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from infra.artifact_store import ArtifactStore
from infra.release_registry import ReleaseRegistry
from infra.store import LocalStore
from pvtt_model.artifacts import Planned


@pytest.fixture
def place(tmp_path: Path) -> str:
    artifacts = ArtifactStore(LocalStore(tmp_path / "store"))
    for version, recipe in (("aa1", "nano"), ("ab2", "nano"), ("ac3", "nano-wide")):
        artifacts.commit(Planned(kind="releases", version=version, spec={}, inputs=(), revision=1), [], {"recipe": recipe, "gates_passed": True})
        time.sleep(0.002)
    return str(tmp_path / "store")


def pvtt(place: str, *args: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["releases", *args, "--store", place])
    return answer.exit_code, answer.output


def test_from_candidate_to_production_and_back(place: str) -> None:
    assert pvtt(place, "promote", "aa", "--why", "the first", "--who", "ann") == (
        0,
        "releases/aa1 is in production now (move 0 of recipe nano, by ann)\n",
    )
    assert pvtt(place, "promote", "releases/ab2", "--to", "staging", "--why", "try it")[0] == 0
    assert pvtt(place, "promote", "ab2", "--to", "production", "--why", "better", "--who", "bob")[0] == 0
    listed = {line.split("│")[2].strip(): line for line in pvtt(place)[1].splitlines() if "│" in line}
    assert "former" in listed["aa1"] and "production" in listed["ab2"] and "better" in listed["ab2"]
    assert "candidate" in listed["ac3"] and "gates passed" in listed["ac3"]
    code, said = pvtt(place, "rollback", "--why", "two mugs", "--who", "ann")
    assert (code, said) == (0, "releases/aa1 is in production now, taking back move 2 (move 3 of recipe nano, by ann)\n")
    history = pvtt(place, "history")[1]
    assert all(word in history for word in ("the first", "to staging", "rollback of move 2", "two mugs", "bob")), history
    listed = {line.split("│")[2].strip(): line for line in pvtt(place)[1].splitlines() if "│" in line}
    assert "rolled back" in listed["ab2"] and "two mugs" in listed["ab2"]
    registry = ReleaseRegistry(ArtifactStore.open(place))
    assert registry.in_use("nano").name == "releases/aa1" and registry.in_use().name == "releases/ac3"


def test_mistakes_are_one_line(place: str) -> None:
    assert "no release of" in pvtt(place, "history")[1]
    pvtt(place, "promote", "aa1", "--why", "first")
    for args, says in (
        (("promote", "zz", "--why", "x"), "no finished artifact"),
        (("promote", "a", "--why", "x"), "'a' begins 3 artifacts"),
        (("promote", "releases/a", "--why", "x"), "'a' begins 3 artifacts"),
        (("promote", "ab2", "--to", "prod", "--why", "x"), "no stage 'prod'. Valid: candidate, staging, production."),
        (("promote", "ab2", "--why", " "), "'why' of a move is ''"),
        (("promote", "aa1", "--why", "x"), "is production already"),
        (("rollback", "--why", "x"), "releases/aa1 is the first in production"),
        (("rollback", "--why", "x", "--recipe", "nano-wide"), "nothing is in production of recipe 'nano-wide'"),
    ):
        code, said = pvtt(place, *args)
        assert code == 1 and says.replace("'a' begins", "begins") in said, (args, said)
    pvtt(place, "promote", "ac3", "--why", "first")
    code, said = pvtt(place, "rollback", "--why", "x")
    assert code == 1 and "moves of 2 recipes (nano, nano-wide). Name one: --recipe." in said


def test_of_a_project(place: str) -> None:
    artifacts = ArtifactStore.open(place)
    ReleaseRegistry(artifacts, "mugs").claim("releases/ab2")
    assert pvtt(place, "promote", "aa1", "--why", "first")[0] == 0
    code, said = pvtt(place, "promote", "ab2", "--why", "ours", "--who", "ann", "--project", "mugs")
    assert (code, said) == (0, "releases/ab2 is in production now (move 0 of recipe nano of project 'mugs', by ann)\n")
    listed = {line.split("│")[2].strip(): line for line in pvtt(place, "--project", "mugs")[1].splitlines() if "│" in line}
    assert "production" in listed["ab2"] and "aa1" not in listed
    assert "aa1" in pvtt(place)[1] and "ours" not in pvtt(place, "history")[1] and "ours" in pvtt(place, "history", "--project", "mugs")[1]
    assert "no releases of project 'cups' in" in pvtt(place, "--project", "cups")[1]
    assert "cannot be a project's name" in pvtt(place, "history", "--project", "A B")[1]
    refused = CliRunner().invoke(app, ["releases", "--project", "mugs", "promote", "aa1", "--why", "x", "--store", place])
    assert refused.exit_code == 2 and "give --project after 'promote'" in refused.output
    assert ReleaseRegistry(artifacts).standing("nano").production == "releases/aa1"
