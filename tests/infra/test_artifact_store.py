"""Artifacts over every backend: done means a manifest; units of work are found again; bytes are checked; lineage reaches the clips."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from infra.artifact_store import ArtifactMissing, ArtifactStore, CorruptObject
from infra.store import LocalStore, ObjectMissing, ObjectStore
from pvtt_model.artifacts import Kind, Manifest, Planned, StoredFile, plan_artifact


def plan(kind: Kind = "clips", inputs: tuple[str, ...] = (), **spec: Any) -> Planned:
    return plan_artifact(kind, spec, inputs)


def file_of(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def pooled(artifacts: ArtifactStore, folder: Path, data: bytes, name: str = "shard.parquet") -> StoredFile:
    return artifacts.pool(file_of(folder, name, data), name, rows=1)


def test_done_means_a_manifest(artifacts: ArtifactStore, tmp_path: Path) -> None:
    planned = plan(seed=1)
    assert artifacts.find(planned) is None
    with pytest.raises(ArtifactMissing, match="no finished artifact"):
        artifacts.manifest(planned)
    shard = pooled(artifacts, tmp_path, b"rows")
    notes = artifacts.attach(planned, "notes/a.txt", file_of(tmp_path, "a.txt", b"note"))
    assert artifacts.find(planned) is None
    manifest = artifacts.commit(planned, [shard, notes], {"clips": 3})
    assert artifacts.find(planned) == artifacts.find(planned.name) == artifacts.manifest(artifacts.ref(manifest)) == manifest
    assert manifest.summary == {"clips": 3} and manifest.shards() == [shard] and manifest.file("notes/a.txt") == notes
    assert shard.key == f"pool/{shard.sha256[:2]}/{shard.sha256}.parquet" and notes.key == f"{planned.name}/notes/a.txt"
    assert set(manifest.code) == {"commit", "dirty"} and {"torch", "ray"} <= set(manifest.libraries)
    assert artifacts.names() == [planned.name] and artifacts.manifests("clips") == [manifest] and artifacts.manifests("masks") == []


def test_the_first_to_commit_counts(artifacts: ArtifactStore) -> None:
    planned, got = plan(seed=2), []
    ready = threading.Barrier(8)

    def commit(who: int) -> None:
        ready.wait()
        got.append(artifacts.commit(planned, [], {"who": who}))

    threads = [threading.Thread(target=commit, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 8 and all(m == got[0] for m in got) and artifacts.find(planned) == got[0]


def test_a_commit_checks_itself(artifacts: ArtifactStore, tmp_path: Path) -> None:
    planned = plan(seed=3)
    shard = pooled(artifacts, tmp_path, b"x")
    with pytest.raises(ValueError, match="share a name"):
        artifacts.commit(planned, [shard, shard])
    with pytest.raises(ValueError, match="not JSON"):
        artifacts.commit(planned, [shard], {"loss": float("nan")})
    artifacts.store.delete([shard.key])
    with pytest.raises(ObjectMissing, match="Pool or attach"):
        artifacts.commit(planned, [shard])
    assert artifacts.find(planned) is None
    with pytest.raises(ValueError, match="its presence means done"):
        artifacts.attach(planned, "manifest.json", tmp_path / "shard.parquet")
    with pytest.raises(ValueError, match="not allowed"):
        artifacts.attach(planned, "../other/x", tmp_path / "shard.parquet")
    for name in ("nonsense/v", "clips", "clips/../x", "clips/a/b"):
        with pytest.raises(ValueError, match="not an artifact's name|not allowed"):
            artifacts.find(name)


def test_a_finished_file_cannot_be_written_again(artifacts: ArtifactStore, tmp_path: Path) -> None:
    planned, path = plan(seed=4), file_of(tmp_path, "f", b"1")
    artifacts.commit(planned, [artifacts.attach(planned, "f", path)])
    with pytest.raises(ValueError, match="immutable"):
        artifacts.attach(planned, "f", path)


def test_equal_content_is_stored_once(artifacts: ArtifactStore, tmp_path: Path) -> None:
    first = pooled(artifacts, tmp_path, b"same", "a.parquet")
    [before] = artifacts.store.list("pool/")
    again = pooled(artifacts, tmp_path, b"same", "b.parquet")
    assert first.key == again.key and list(artifacts.store.list("pool/")) == [before]


def test_a_truncated_pool_object_is_put_again(artifacts: ArtifactStore, tmp_path: Path) -> None:
    file = pooled(artifacts, tmp_path, b"whole")
    artifacts.store.put_bytes(file.key, b"wh")
    assert artifacts.store.get_bytes(pooled(artifacts, tmp_path, b"whole").key) == b"whole"


def test_which_of_many_files_are_there(artifacts: ArtifactStore, tmp_path: Path) -> None:
    files = [pooled(artifacts, tmp_path, b"x" * (i + 1)) for i in range(5)]
    artifacts.store.delete([files[1].key])
    artifacts.store.put_bytes(files[3].key, b"longer than it was")
    assert artifacts.missing(files) == [files[1], files[3]]
    assert [artifacts.has(file) for file in files] == [True, False, True, False, True]


def test_units_of_work_are_found_again(artifacts: ArtifactStore, tmp_path: Path) -> None:
    assert artifacts.find_derived("masks", "k1") is None
    file = pooled(artifacts, tmp_path, b"masks")
    first = artifacts.record_derived("masks", "k1", [file], {"usable": 5})
    assert artifacts.find_derived("masks", "k1") == first and first.files == (file,)
    assert artifacts.record_derived("masks", "k1", [file], {"usable": 6}) == first  # the loser gets the winner's
    artifacts.store.delete([file.key])
    assert artifacts.find_derived("masks", "k1") is None  # gc has taken its file
    file = pooled(artifacts, tmp_path, b"masks")
    artifacts.store.delete([file.key])
    other = pooled(artifacts, tmp_path, b"other masks")
    assert artifacts.record_derived("masks", "k1", [other]).files == (other,) != first.files  # a dead record is replaced


def test_cached_files_are_checked(artifacts: ArtifactStore, store: ObjectStore, tmp_path: Path) -> None:
    file = pooled(artifacts, tmp_path, b"precious" * 99)
    path = artifacts.local_path(file)
    assert path.read_bytes() == b"precious" * 99 and path.suffix == ".parquet"
    assert artifacts.local_path(file) == path
    path.unlink()
    path.write_bytes(b"gone bad in the cache")
    assert artifacts.local_path(file).read_bytes() == b"precious" * 99
    store.put_bytes(file.key, b"gone bad in the store")
    with pytest.raises(CorruptObject, match="pvtt artifacts verify"):
        ArtifactStore(store, tmp_path / "other").local_path(file)


def test_a_local_store_caches_without_a_second_copy(tmp_path: Path) -> None:
    artifacts = ArtifactStore(LocalStore(tmp_path / "s"))
    file = pooled(artifacts, tmp_path, b"1")
    path = artifacts.local_path(file)
    assert path.is_relative_to(tmp_path / "s" / ".cache") and path.stat().st_nlink == 2 and path.stat().st_mode & 0o222 == 0
    assert [info.key for info in artifacts.store.list()] == [file.key]


def test_lineage_reaches_the_clips(artifacts: ArtifactStore) -> None:
    clips = artifacts.commit(plan("clips", seed=5), [])
    masks = artifacts.commit(plan("masks", (clips.name,)), [])
    latents = artifacts.commit(plan("latents", (clips.name, masks.name)), [])
    tree = artifacts.lineage(latents.name)
    assert tree.manifest == latents and [i.name for i in tree.inputs] == [clips.name, masks.name]
    assert tree.inputs[1].inputs[0].manifest == clips and set(tree.names()) == {clips.name, masks.name, latents.name}
    artifacts.store.delete([f"{clips.name}/manifest.json"])
    assert artifacts.lineage(latents.name).inputs[0].manifest is None
    with pytest.raises(ArtifactMissing):
        artifacts.lineage(clips.name)


def test_verify_finds_what_is_wrong(artifacts: ArtifactStore, store: ObjectStore, tmp_path: Path) -> None:
    a, b, c = (pooled(artifacts, tmp_path, data, data.decode()) for data in (b"a", b"b", b"c"))
    clips = artifacts.commit(plan("clips", seed=6), [a, b])
    masks = artifacts.commit(plan("masks", (clips.name,)), [b, c])
    good = artifacts.verify()
    assert good.ok and (good.artifacts, good.files, good.bytes) == (2, 3, 3)
    store.put_bytes(b.key, b"B")
    store.delete([c.key])
    report = artifacts.verify()
    assert {(p.artifact, p.file, p.what) for p in report.problems} == {
        (clips.name, "b", "corrupt"),
        (masks.name, "b", "corrupt"),
        (masks.name, "c", "missing"),
    }
    store.put_bytes(f"{clips.name}/manifest.json", b"{")
    assert "unreadable manifest" in {p.what for p in artifacts.verify([clips.name]).problems}
    with pytest.raises(ValueError, match="cannot be read"):
        artifacts.find(clips.name)


def test_an_old_object_used_again_is_made_young(tmp_path: Path) -> None:
    """Else gc could take it between its use and the manifest that names it."""
    import os

    artifacts = ArtifactStore(LocalStore(tmp_path / "s"), tmp_path / "cache")
    assert isinstance(artifacts.store, LocalStore)
    file = pooled(artifacts, tmp_path, b"old")
    artifacts.record_derived("masks", "k", [file])
    for use in (lambda: pooled(artifacts, tmp_path, b"old"), lambda: artifacts.find_derived("masks", "k")):
        os.utime(artifacts.store.path_of(file.key), (0, 0))
        use()
        assert time.time() - artifacts.store.path_of(file.key).stat().st_mtime < 60


def test_a_manifest_says_what_it_read(artifacts: ArtifactStore) -> None:
    made = artifacts.commit(plan(seed=7), [], {"nested": {"a": [1, 2.5, None]}})
    assert Manifest.model_validate_json(artifacts.store.get_bytes(f"{made.name}/manifest.json")) == made
