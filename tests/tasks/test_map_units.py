"""What is prepared while Ray works: of the records that were found, beside the others' making, and not where there is nothing to make."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import infra.ray_launch as ray_launch
import tasks.clip_table as clip_table
import tasks.pieces as pieces
from infra.artifact_store import ArtifactStore, Derived
from infra.store import ObjectMissing
from tasks.pieces import read_ahead, read_piece
from tasks.tables import pool_json


class Unit(NamedTuple):
    key: str


class Quiet:
    def __init__(self, *_: Any) -> None: ...

    def at(self, *_: Any) -> None: ...


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """A store with one finished unit, 'old'; what Ray would do is done here, and waits until something is prepared."""
    store = ArtifactStore.open(tmp_path / "store")
    store.record_derived("latents", "old", [pool_json(store, "a.json", [1, 2])])
    monkeypatch.setattr(clip_table, "Progress", Quiet)
    for name in ("start_ray", "must_fit"):
        monkeypatch.setattr(ray_launch, name, lambda *_: None)
    monkeypatch.setattr(ray_launch, "map_on_ray", lambda function, items, **_: [function(item) for item in items])
    return store


def made_by(store: ArtifactStore, wait: Callable[[], object] = lambda: None) -> Callable[[Unit], Derived]:
    def make(unit: Unit) -> Derived:
        wait()
        return store.record_derived("latents", unit.key, [pool_json(store, "b.json", [3])])

    return make


def test_it_is_prepared_beside_the_work(store: ArtifactStore) -> None:
    begun, seen = threading.Event(), []

    def prepare(found: Sequence[Derived]) -> None:
        seen.append([record.key for record in found])
        begun.set()

    units = [Unit("old"), Unit("new")]
    make = made_by(store, lambda: begun.wait(20) or pytest.fail("nothing was prepared while this was made"))
    records = clip_table.map_units(store, make, units, kind="latents", what="testing", meanwhile=prepare)
    assert [record.key for record in records] == ["old", "new"] and seen == [["old"]]
    clip_table.map_units(store, make, units, kind="latents", what="testing", meanwhile=prepare)
    assert seen == [["old"]], "all are there"


def test_what_cannot_be_prepared_is_said_and_what_was_made_is_kept(store: ArtifactStore) -> None:
    def prepare(_: Sequence[Derived]) -> None:
        raise OSError("a piece is gone")

    with pytest.raises(OSError, match="a piece is gone"):
        clip_table.map_units(store, made_by(store), [Unit("new")], kind="latents", what="testing", meanwhile=prepare)
    assert store.find_derived("latents", "new") is not None


def test_pieces_read_ahead_are_given_once_and_are_no_more_than_so_many(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [pool_json(store, f"rows-{i:05d}.json", [i, i]) for i in range(3)]
    monkeypatch.setattr(pieces, "AHEAD_ROWS", 3)
    read_ahead(store, files)
    for file in files:
        store.local_path(file).unlink()
        (Path(store.store.uri) / file.key).unlink()
    assert [read_piece(store, file) for file in files[:2]] == [[0, 0], [1, 1]]
    for file in files:
        with pytest.raises(ObjectMissing):
            read_piece(store, file)
