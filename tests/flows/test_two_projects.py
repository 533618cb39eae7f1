"""Two people's curricula at once, on the server and worker of one `pvtt up`, in one store: what is alike is made once, and each keeps to its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.artifact_store import ArtifactStore
from infra.release_registry import ReleaseRegistry
from pvtt_model.nano.world import write_world
from pvtt_model.specs import NanoWorldSpec
from tests.flows.test_curriculum import small
from tests.flows.test_on_push import Town

pytestmark = pytest.mark.slow

CURATED = ("clips", "masks", "latents", "conditions")
PROJECTS = {"mugs": 1.0, "cups": 0.5}  # and the factor of its learning rate
RUN_S = 1500


class TwoPeople(Town):
    """One home and one store; a command is somebody's by --project or by PVTT_PROJECT."""

    def start(self, *args: str, project: str | None = None) -> subprocess.Popen[str]:
        env = self.env | ({"PVTT_PROJECT": project} if project else {})
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *args],
            cwd=Path(__file__).parents[2],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def seen(self, *args: str) -> list[dict[str, Any]]:
        return json.loads(self.pvtt("status", "--json", *args))


def overrides(factor: float) -> list[str]:
    """--set of one stage of four steps, alike but for the learning rate."""
    asked = {path: value for path, value in small().items() if not path.startswith("world.")}
    asked["stages"][0]["optim"]["lr"] *= factor
    return [part for path, value in asked.items() for part in ("--set", f"{path}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoPeople]:
    home = tmp_path_factory.mktemp("people")
    town = TwoPeople(home, "")
    town.env = {name: value for name, value in town.env.items() if not name.startswith("AWS_")}
    try:
        town.up()
        yield town
    finally:
        town.pvtt("down")


@pytest.fixture(scope="module")
def ran(people: TwoPeople) -> dict[str, Any]:
    """The two runs, side by side, on pushed clips: {project: row of `pvtt status --json`}."""
    write_world(NanoWorldSpec(num_clips=5, num_validation=1, num_eval=3, look_alikes=2), people.home / "clips")
    assert "9 new clips" in people.pvtt("data", "push", str(people.home / "clips"), str(people.home / "incoming"), "--no-event")
    common = ["run", "--recipe", "nano", "--clips", str(people.home / "incoming")]
    running = {
        "mugs": people.start(*common, *overrides(PROJECTS["mugs"]), "--project", "mugs"),
        "cups": people.start(*common, *overrides(PROJECTS["cups"]), project="cups"),
    }
    try:
        said = {name: process.communicate(timeout=RUN_S)[0] for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    assert all(process.returncode == 0 for process in running.values()), "\n".join(said.values())[-6000:]
    rows = {name: people.seen("--project", name) for name in PROJECTS}
    assert all(len(of_project) == 1 for of_project in rows.values())
    return {name: of_project[0] for name, of_project in rows.items()}


@pytest.fixture(scope="module")
def store(people: TwoPeople, ran: dict[str, Any]) -> ArtifactStore:
    return ArtifactStore.open(people.home / "store")


def test_both_ran_at_once_under_their_names_and_tags(people: TwoPeople, ran: dict[str, Any]) -> None:
    runs = {name: people.ask("flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"project:{name}"]}}}) for name in PROJECTS}
    assert [len(found) for found in runs.values()] == [1, 1]
    flows = {name: found[0] for name, found in runs.items()}
    for name, run in flows.items():
        assert (run["state"]["type"], run["name"]) == ("COMPLETED", f"{name}: nano on {people.home / 'incoming'}")
        assert run["parameters"]["project"] == name == ran[name]["project"] and set(run["tags"]) == {"pvtt", "training", f"project:{name}"}
    spans = [[datetime.fromisoformat(run[at]) for at in ("start_time", "end_time")] for run in flows.values()]
    overlap = (min(end for _, end in spans) - max(begin for begin, _ in spans)).total_seconds()
    print(f"\nside by side for {overlap:.0f} s of {[round((end - begin).total_seconds()) for begin, end in spans]}")
    assert overlap > 0


def test_what_is_alike_is_made_once_and_by_one(ran: dict[str, Any], store: ArtifactStore) -> None:
    how = Counter((row["artifact"].partition("/")[0], row["how"]) for run in ran.values() for row in run["made"])
    print(f"\n{dict(how)}")
    for kind in CURATED:
        assert len(store.names(kind)) == 1 and (how[kind, "made"], how[kind, "reused"]) == (1, 1), kind
    assert how["checkpoints", "made"] == how["releases", "made"] == 2, "the learning rates differ"
    assert store.verify().ok
    folders = {name: {path.name for path in (Path(store.store.root).parent / "tensorboard" / name).iterdir()} for name in PROJECTS}
    assert all(len(of_project) == 1 for of_project in folders.values()) and folders["mugs"].isdisjoint(folders["cups"])


def test_each_has_its_own_release_in_production(people: TwoPeople, ran: dict[str, Any], store: ArtifactStore) -> None:
    own = {name: next(row["artifact"] for row in run["made"] if row["artifact"].startswith("releases/")) for name, run in ran.items()}
    registries = {name: ReleaseRegistry(store, name) for name in PROJECTS}
    assert {name: [m.name for m in registry.releases()] for name, registry in registries.items()} == {
        name: [release] for name, release in own.items()
    }
    assert ReleaseRegistry(store).releases() == [] and not list(store.store.list("registry/")), "of no project there is none"
    people.pvtt("releases", "promote", own["mugs"], "--why", "looked at its edits", "--project", "mugs")
    assert (registries["mugs"].standing("nano").production, registries["cups"].standing("nano").production) == (own["mugs"], None)
    people.pvtt("releases", "promote", own["cups"], "--why", "so did I", "--project", "cups")
    assert [registries[name].standing("nano").production for name in PROJECTS] == list(own.values())

    by_hand = people.start(
        "run", "--deployment", "retrain/retrain", "--clips", str(people.home / "incoming"), *overrides(PROJECTS["mugs"]), "--project", "mugs"
    )
    said = " ".join(by_hand.communicate(timeout=RUN_S)[0].split())  # the terminal's lines are broken
    assert by_hand.returncode == 0 and f"of {own['mugs']}; nothing to train" in said, said[-3000:]
    pushed = [str(people.home / "clips"), str(people.home / "incoming"), "--recipe", "nano", *overrides(PROJECTS["cups"]), "--project", "cups"]
    assert "event pvtt.data.pushed" in people.pvtt("data", "push", *pushed)
    by_event = people.runs(2, 300)[1]
    assert (by_event["state"]["name"], by_event["parameters"]["project"]) == ("NothingNew", "cups") and "project:cups" in by_event["tags"]
    assert f"of {own['cups']}; nothing to train" in by_event["state"]["message"]


def test_a_bad_project_is_refused_by_the_server_and_by_the_command(people: TwoPeople) -> None:
    deployment = httpx.get(f"{people.api}/deployments/name/pvtt/full-curriculum").json()["id"]
    answer = httpx.post(f"{people.api}/deployments/{deployment}/create_flow_run", json={"parameters": {"project": "A B"}})
    assert answer.status_code in (409, 422) and "A B" in answer.text, answer.text
    refused = people.start("run", "--project", "A B")
    assert "'A B' cannot be a project's name" in refused.communicate(timeout=120)[0] and refused.returncode == 2
