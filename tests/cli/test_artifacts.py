"""`pvtt artifacts` on a small store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.artifacts import app, human_bytes
from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import Manifest, Planned

run = CliRunner()


def planned(kind: str, version: str, *inputs: str) -> Planned:
    return Planned.model_validate({"kind": kind, "version": version, "spec": {"px": 64}, "inputs": inputs, "revision": 1})


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("PVTT_STORE", str(tmp_path / "store"))
    return ArtifactStore.open(tmp_path / "store")


@pytest.fixture
def made(artifacts: ArtifactStore, tmp_path: Path) -> list[Manifest]:
    (tmp_path / "s.parquet").write_bytes(b"x" * 2048)
    shard = artifacts.pool(tmp_path / "s.parquet", "s.parquet", rows=3)
    clips = artifacts.commit(planned("clips", "aa11"), [shard], {"clips": 24, "note": "[bold]"})
    masks = artifacts.commit(planned("masks", "aa22", clips.name), [shard])
    return [clips, masks]


def test_ls(made: list[Manifest]) -> None:
    everything = run.invoke(app, ["ls"])
    assert everything.exit_code == 0
    assert all(text in everything.stdout for text in ("aa11", "2.0 KiB", "clips 24, note [bold]"))
    assert "aa11" not in run.invoke(app, ["ls", "masks"]).stdout
    wrong = run.invoke(app, ["ls", "mask"])
    assert wrong.exit_code == 1 and "Kinds: clips, masks" in wrong.stderr
    assert "no artifacts in" in run.invoke(app, ["ls", "--store", "/nonexistent/empty"]).stdout


def test_show_by_a_beginning(made: list[Manifest]) -> None:
    shown = run.invoke(app, ["show", "aa1"])
    assert shown.exit_code == 0 and "clips/aa11" in shown.stdout and made[0].files[0].sha256[:12] in shown.stdout
    assert json.loads(run.invoke(app, ["show", "masks/aa", "--json"]).stdout)["version"] == "aa22"
    ambiguous = run.invoke(app, ["show", "aa"])
    assert ambiguous.exit_code == 1 and "clips/aa11, masks/aa22" in ambiguous.stderr
    assert "begins with 'zz'" in run.invoke(app, ["show", "zz"]).stderr


def test_verify_says_what_is_wrong(artifacts: ArtifactStore, made: list[Manifest]) -> None:
    good = run.invoke(app, ["verify"])
    assert good.exit_code == 0 and "2 artifacts, 1 files, 2.0 KiB hashed: all intact" in good.stdout
    artifacts.store.put_bytes(made[0].files[0].key, b"y" * 2048)
    bad = run.invoke(app, ["verify", "clips/aa11"])
    assert bad.exit_code == 1 and "corrupt" in bad.stdout and "1 wrong" in bad.stdout


def test_lineage(made: list[Manifest]) -> None:
    shown = run.invoke(app, ["lineage", "masks/aa22"])
    assert shown.exit_code == 0 and shown.stdout.index("masks/aa22") < shown.stdout.index("clips/aa11")


def test_gc_lists_before_it_deletes(artifacts: ArtifactStore, made: list[Manifest], tmp_path: Path) -> None:
    (tmp_path / "loose").write_bytes(b"loose")
    loose = artifacts.pool(tmp_path / "loose", "loose")
    assert "0 objects" in run.invoke(app, ["gc"]).stdout
    listed = run.invoke(app, ["gc", "--grace-h", "0"])
    assert loose.key in listed.stdout and "nothing was deleted" in listed.stdout and artifacts.store.exists(loose.key)
    deleted = run.invoke(app, ["gc", "--grace-h", "0", "--delete"])
    assert deleted.stdout.index(loose.key) < deleted.stdout.index("deleted 1 objects, 5 B")
    assert not artifacts.store.exists(loose.key) and artifacts.verify().ok


def test_a_wrong_store_is_one_line(made: list[Manifest]) -> None:
    wrong = run.invoke(app, ["ls", "--store", "gs://x"])
    assert wrong.exit_code == 1 and wrong.stderr.startswith("error: ") and "s3://bucket/prefix" in wrong.stderr


def test_human_bytes() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1024, 3 * 2**30)] == ["0 B", "1023 B", "1.0 KiB", "3.0 GiB"]
