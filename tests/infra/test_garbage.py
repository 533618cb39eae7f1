"""gc never takes what a manifest reaches, and nothing young."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.artifact_store import ArtifactStore
from infra.store import LocalStore, ObjectStore
from pvtt_model.artifacts import plan_artifact

from test_artifact_store import file_of, plan, pooled  # isort: skip


def test_what_goes_and_what_stays(artifacts: ArtifactStore, store: ObjectStore, tmp_path: Path) -> None:
    done = plan("checkpoints", seed=1)
    kept, loose, shared = (pooled(artifacts, tmp_path, data, data.decode()) for data in (b"kept", b"loose", b"shared"))
    step = artifacts.attach(done, "steps/4/state.pt", file_of(tmp_path, "s", b"state"))
    final = artifacts.attach(done, "adapter.safetensors", file_of(tmp_path, "w", b"weights"))
    artifacts.commit(done, [kept, final])
    # a release may name a file of another version
    artifacts.commit(plan("releases", (done.name,)), [final.model_copy(update={"name": "theirs"}), shared])
    unfinished = plan("edits", seed=1)
    half = artifacts.attach(unfinished, "half.mp4", file_of(tmp_path, "h", b"half"))
    artifacts.record_derived("masks", "lives", [shared])
    artifacts.record_derived("masks", "dies", [shared, loose])
    store.put_bytes("probe/left", b"")
    store.put_bytes("leases/clips/v/000000.json", b"{}")
    store.put_bytes("somebody/elses", b"not ours to judge")

    assert artifacts.gc() == []  # all is younger than a day
    before = {info.key for info in store.list()}
    plan_ = artifacts.gc(0)
    expected = {loose.key, step.key, half.key, "derived/masks/dies.json", "probe/left", "leases/clips/v/000000.json"}
    assert {g.key for g in plan_} == expected
    assert {info.key for info in store.list()} == before  # only listed
    reasons = {g.key: g.reason for g in plan_}
    assert reasons[step.key] == "step checkpoint of a finished version" and reasons[half.key] == "of a version without a manifest"

    late = artifacts.commit(unfinished, [half])  # finished between the list and the deletion
    gone = artifacts.gc(0, delete=True, only=plan_)
    assert {g.key for g in gone} == expected - {half.key}
    assert {info.key for info in store.list()} == before - {g.key for g in gone} | {f"{late.name}/manifest.json"}
    assert artifacts.verify().ok and artifacts.find_derived("masks", "dies") is None and artifacts.find_derived("masks", "lives")
    assert artifacts.gc(0, delete=True) == []


def test_the_grace(tmp_path: Path) -> None:
    artifacts = ArtifactStore(LocalStore(tmp_path / "s"), tmp_path / "cache")
    store = artifacts.store
    assert isinstance(store, LocalStore)
    old, young = pooled(artifacts, tmp_path, b"old"), pooled(artifacts, tmp_path, b"young")
    training = plan("checkpoints", seed=2)
    first = artifacts.attach(training, "steps/1/s.pt", file_of(tmp_path, "state", b"1"))
    artifacts.attach(training, "steps/2/s.pt", file_of(tmp_path, "state", b"2"))
    two_days_ago = store.path_of(young.key).stat().st_mtime - 2 * 86400
    for key in (old.key, first.key):
        os.utime(store.path_of(key), (two_days_ago, two_days_ago))
    assert [g.key for g in artifacts.gc()] == [old.key]  # the training's old step stays beside its young one
    assert [g.key for g in artifacts.gc(3 * 86400)] == []
    with pytest.raises(ValueError, match="seconds, 0 or more"):
        artifacts.gc(-1)


def test_an_unreadable_manifest_stops_it(artifacts: ArtifactStore, store: ObjectStore, tmp_path: Path) -> None:
    file = pooled(artifacts, tmp_path, b"x")
    done = artifacts.commit(plan(seed=3), [file])
    store.put_bytes(f"{done.name}/manifest.json", b"not JSON")
    with pytest.raises(ValueError, match="nothing is deleted"):
        artifacts.gc(0, delete=True)
    assert store.exists(file.key)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 5), max_size=3), st.booleans(), st.booleans()), min_size=1, max_size=5))
def test_whatever_was_committed_survives(versions: list[tuple[set[int], bool, bool]]) -> None:
    """versions: (pooled contents, has a file of its own, committed)."""
    with tempfile.TemporaryDirectory() as folder:
        artifacts = ArtifactStore(LocalStore(Path(folder, "s")), Path(folder, "cache"))
        reached: set[str] = set()
        for i, (contents, own, committed) in enumerate(versions):
            planned = plan_artifact("edits", {"i": i})
            files = [pooled(artifacts, Path(folder), str(c).encode(), f"{c}") for c in sorted(contents)]
            artifacts.record_derived("edits", str(i), files)
            if own:
                files.append(artifacts.attach(planned, "own", file_of(Path(folder), "own", str(i).encode())))
            if committed:
                artifacts.commit(planned, files)
                reached |= {f.key for f in files} | {f"{planned.name}/manifest.json"}
        artifacts.gc(0, delete=True)
        left = {info.key for info in artifacts.store.list()}
        assert {key for key in left if not key.startswith("derived/")} == reached and artifacts.verify().ok
        assert all(artifacts.find_derived("edits", Path(key).stem) for key in left if key.startswith("derived/"))
