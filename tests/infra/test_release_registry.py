"""Releases: moves are numbered records that nothing overwrites; of two who promote at once one is told that it lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.artifact_store import ArtifactMissing, ArtifactStore
from infra.release_registry import Move, ReleaseMoved, ReleaseRegistry
from infra.store import LocalStore
from pvtt_model.artifacts import Planned

ROOT = Path(__file__).parent.parent.parent
PROMOTER = """
import sys
from infra.artifact_store import ArtifactStore
from infra.release_registry import ReleaseMoved, ReleaseRegistry
from infra.store import open_store
who, uri, endpoint = sys.argv[1:4]
registry = ReleaseRegistry(ArtifactStore(open_store(uri, endpoint or None)))
for line in sys.stdin:  # RELEASE=STAGE: look, and move when told
    release, _, to = line.strip().partition("=")
    seen = len(registry.standing("nano").moves)
    print("looked", flush=True)
    sys.stdin.readline()
    try:
        registry.move(release, to, who, f"for {release}", seen_moves=seen)
        print("won", flush=True)
    except ReleaseMoved as lost:
        print("lost", lost, flush=True)
"""


def released(artifacts: ArtifactStore, version: str, recipe: str = "nano") -> str:
    planned = Planned(kind="releases", version=version, spec={}, inputs=(), revision=1)
    return artifacts.commit(planned, [], {"recipe": recipe}).name


@pytest.fixture
def registry(artifacts: ArtifactStore) -> ReleaseRegistry:
    for version in ("a", "b", "c"):
        released(artifacts, version)
        time.sleep(0.002)  # `created` tells their order
    return ReleaseRegistry(artifacts)


def test_a_retraining_stopped_before_it_compared_leaves_the_last_release_in_use(artifacts: ArtifactStore, registry: ReleaseRegistry) -> None:
    planned = Planned(kind="releases", version="d", spec={}, inputs=(), revision=1)
    artifacts.commit(planned, [], {"recipe": "nano", "after": "releases/c"})
    assert registry.in_use("nano").name == "releases/c", "nobody has said that d is not worse"
    registry.move("releases/d", "staging", "run 2", "not worse")
    assert registry.in_use("nano").name == "releases/d"


def test_what_passed_its_gates_is_before_a_newer_that_missed_one(artifacts: ArtifactStore, registry: ReleaseRegistry) -> None:
    for version, passed in (("d", True), ("e", False)):
        planned = Planned(kind="releases", version=version, spec={}, inputs=(), revision=1)
        artifacts.commit(planned, [], {"recipe": "nano", "gates_passed": passed})
        time.sleep(0.002)
    assert registry.in_use("nano").name == "releases/d", "e is a trial that was told to go on"
    registry.move("releases/d", "candidate", "ann", "looked at its edits")
    assert registry.in_use("nano").name == "releases/e", "none of those left passed"
    registry.move("releases/e", "production", "ann", "as good as we have")
    assert registry.in_use("nano").name == "releases/e"


def test_moves_and_rollbacks(registry: ReleaseRegistry) -> None:
    assert registry.in_use("nano").name == "releases/c" and registry.standing("nano").of("releases/a") == "candidate"
    registry.move("releases/c", "candidate", "run 1", "worse")
    assert registry.in_use("nano").name == "releases/b", "what was kept back is not taken for the last release"
    registry.move("releases/a", "production", "ann", "first")
    registry.move("releases/b", "staging", "ann", "try it")
    assert registry.in_use().name == "releases/a"
    move = registry.move("releases/b", "production", "ann", "good", ["reports/x"])
    assert (move.n, move.evidence) == (3, ("reports/x",))
    registry.move("releases/c", "production", "bob", "hurry")
    standing = registry.standing("nano")
    assert standing.production == "releases/c" and [standing.of(f"releases/{v}") for v in "ab"] == ["former", "former"]
    back = registry.rollback("nano", "ann", "it drew two mugs")
    assert back.release == "releases/b" and back.undoes == 4
    standing = registry.standing("nano")
    assert standing.production == "releases/b" and standing.of("releases/c") == "rolled back"
    assert standing.last_move("releases/c").why == "it drew two mugs"
    assert registry.rollback("nano", "ann", "this one too").release == "releases/a"
    with pytest.raises(ValueError, match="releases/a is the first in production"):
        registry.rollback("nano", "ann", "and this")
    registry.move("releases/c", "production", "bob", "mended data")
    assert registry.rollback("nano", "bob", "no").release == "releases/a"
    assert [m.n for m in registry.standing("nano").moves] == list(range(9))


def test_what_is_refused(registry: ReleaseRegistry, artifacts: ArtifactStore) -> None:
    with pytest.raises(ArtifactMissing, match="no finished artifact releases/z"):
        registry.move("releases/z", "production", "ann", "?")
    with pytest.raises(ValueError, match="'why' of a move is ''"):
        registry.move("releases/a", "production", "ann", "  ")
    with pytest.raises(ValueError, match="nothing is in production of recipe 'nano'"):
        registry.rollback("nano", "ann", "x")
    registry.move("releases/a", "production", "ann", "first")
    with pytest.raises(ValueError, match="is production already, by .* ann at .*: first"):
        registry.move("releases/a", "production", "bob", "again")
    with pytest.raises(ValueError, match="in production. Promote another"):
        registry.move("releases/a", "candidate", "bob", "down")
    with pytest.raises(ReleaseMoved, match="nothing was in production; since then releases/a was put to production by ann at .*: first"):
        registry.move("releases/b", "production", "bob", "mine", seen_moves=0)
    registry.move("releases/b", "staging", "bob", "to look at", seen_moves=0)  # asks nothing of production
    wide = released(artifacts, "w", "nano-wide")
    registry.move(wide, "production", "ann", "first of its own")
    assert registry.standing("nano").production == "releases/a" and registry.recipes() == ["nano", "nano-wide"]


def test_a_lost_record_is_said(registry: ReleaseRegistry) -> None:
    for name in ("a", "b"):
        registry.move(f"releases/{name}", "staging", "ann", "look")
    registry.store.delete(["registry/nano/000000.json"])
    with pytest.raises(ValueError, match=r"registry/nano/000001.json .* where registry/nano/000000.json is due"):
        registry.standing("nano")


def test_gc_leaves_it(registry: ReleaseRegistry) -> None:
    registry.move("releases/a", "production", "ann", "first")
    assert not [g for g in registry.artifacts.gc(0) if g.key.startswith("registry/")]


def test_two_projects_have_each_their_own(artifacts: ArtifactStore, registry: ReleaseRegistry) -> None:
    """One store, releases a, b, c of the runs without a project; d made by mugs, e by cups, f by both, c found by mugs."""
    mugs, cups = ReleaseRegistry(artifacts, "mugs"), ReleaseRegistry(artifacts, "cups")
    assert mugs.in_use("nano") is None and mugs.releases() == [], "what others made is no candidate of a new project"
    for owner, version in ((mugs, "d"), (cups, "e"), (mugs, "f"), (cups, "f"), (mugs, "c")):
        owner.claim(f"releases/{version}")
        released(artifacts, version)
        time.sleep(0.002)

    def of(one: ReleaseRegistry) -> str:
        return "".join(m.version for m in one.releases("nano"))

    assert (of(mugs), of(cups), of(registry)) == ("cdf", "ef", "abc"), "what a project finds stays theirs who made it without one"
    registry.claim("releases/d")
    assert (of(mugs), of(registry)) == ("cdf", "abcd"), "and a run without a project that finds a project's has it too"
    mugs.move("releases/d", "production", "ann", "ours")
    assert (mugs.in_use().name, cups.in_use("nano").name, registry.in_use("nano").name) == ("releases/d", "releases/f", "releases/d")
    cups.move("releases/f", "candidate", "run 1", "worse")
    assert (mugs.standing("nano").of("releases/f"), cups.in_use("nano").name) == ("candidate", "releases/e")
    cups.move("releases/a", "production", "bob", "good enough for us")
    assert of(cups) == "aef", "taken from others by a person's move"
    registry.move("releases/b", "production", "eve", "of no project")
    assert [one.standing("nano").production for one in (mugs, cups, registry)] == ["releases/d", "releases/a", "releases/b"]
    assert [one.recipes() for one in (mugs, cups, registry)] == [["nano"]] * 3
    assert mugs.standing("nano").into_production.n == 0, "each counts its own moves"
    with pytest.raises(ValueError, match="releases/d is the first in production"):
        mugs.rollback("nano", "ann", "x")
    keys = {info.key for info in artifacts.store.list("projects/")}
    assert {"projects/mugs/registry/nano/000000.json", "projects/cups/releases/f", "projects/-/releases/c"} <= keys
    assert not [g for g in artifacts.gc(0) if g.key.startswith(("projects/", "registry/", "releases/"))], "gc leaves them"


def test_a_project_named_as_a_recipe_and_a_store_without_projects(artifacts: ArtifactStore, registry: ReleaseRegistry) -> None:
    registry.claim("releases/a")
    registry.move("releases/a", "production", "ann", "first")
    assert [info.key for info in artifacts.store.list("registry/")] == ["registry/nano/000000.json"]
    assert not list(artifacts.store.list("projects/")), "no key that was not there before"
    ReleaseRegistry(artifacts, "nano").move("releases/b", "production", "bob", "first")
    assert registry.recipes() == ["nano"] and registry.standing("nano").production == "releases/a"
    with pytest.raises(ValueError, match="cannot be a project's name"):
        ReleaseRegistry(artifacts, "../registry")


def test_two_promote_at_once(artifacts: ArtifactStore) -> None:
    """Two processes that have both looked, and then move at once: one promotes, the other sees whose move came first; other moves all count."""
    uri, endpoint = artifacts.store.uri, getattr(artifacts.store, "endpoint", None) or ""
    racers = {}
    for who in ("ann", "bob"):
        command, env = [sys.executable, "-c", PROMOTER, who, uri, endpoint], os.environ | {"PYTHONPATH": str(ROOT)}
        racers[who] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def tell(what: dict[str, str]) -> dict[str, str]:
        for who, racer in racers.items():
            racer.stdin.write(what[who] + "\n")
            racer.stdin.flush()
        return {who: racer.stdout.readline().strip() for who, racer in racers.items()}

    stages = ["production", "production", "staging", "production"]
    try:
        for i, to in enumerate(stages):
            mine = {who: released(artifacts, f"{who}{i}") for who in racers}
            assert set(tell({who: f"{release}={to}" for who, release in mine.items()}).values()) == {"looked"}
            said = tell(dict.fromkeys(racers, "go"))
            won = sorted(who for who, words in said.items() if words == "won")
            assert len(won) == (2 if to == "staging" else 1), said
            if len(won) == 1:
                (lost,) = set(racers) - set(won)
                assert f"since then {mine[won[0]]} was put to production by {won[0]} at " in said[lost], said
                assert ReleaseRegistry(artifacts).standing("nano").production == mine[won[0]]
    finally:
        for racer in racers.values():
            racer.communicate(timeout=60)
    assert [move.to for move in ReleaseRegistry(artifacts).standing("nano").moves] == ["production", "production", "staging", "staging", "production"]


def test_records_are_not_written_over(tmp_path: Path) -> None:
    artifacts = ArtifactStore(LocalStore(tmp_path))
    released(artifacts, "a")
    registry = ReleaseRegistry(artifacts)
    first = registry.move("releases/a", "staging", "ann", "look")
    other = Move.model_validate(first.model_dump() | {"move_id": "other"})
    assert registry.store.put_if_absent("registry/nano/000000.json", other.model_dump_json().encode()) is False
    assert registry.standing("nano").moves == (first,)
