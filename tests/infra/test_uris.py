"""A path or an s3:// uri becomes a local path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from infra.store.s3 import S3Store
from infra.uris import is_remote, join, localise
from pvtt_model.data.manifest import read_manifest
from pvtt_model.data.source import read_source
from pvtt_model.specs import ClipSpec


def test_local_paths_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "a b.mp4").write_bytes(b"1")
    for uri in (str(tmp_path / "a b.mp4"), f"file://{tmp_path}/a%20b.mp4"):
        assert localise(uri, tmp_path / "cache") == tmp_path / "a b.mp4" and not is_remote(uri)
    assert localise("a b.mp4", tmp_path / "cache", root=tmp_path) == tmp_path / "a b.mp4"
    with pytest.raises(FileNotFoundError, match="what it is relative to"):
        localise("nope", tmp_path, root=tmp_path)
    with pytest.raises(ValueError, match="s3://bucket/key"):
        localise("gs://x/y", tmp_path)


def test_s3_is_fetched_once_and_again_when_changed(moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_endpoint)
    store = S3Store("s3://pvtt/uris", moto_endpoint)
    store.put_bytes("clips/a.mp4", b"one")
    store.put_bytes("clips/sub/b.mp4", b"two")
    store.put_bytes("clips-other/c.mp4", b"not below")
    one = localise("s3://pvtt/uris/clips/a.mp4", tmp_path)
    assert one.name == "a.mp4" and one.read_bytes() == b"one" and is_remote("s3://pvtt/uris/clips/a.mp4")
    assert localise("clips/a.mp4", tmp_path, root="s3://pvtt/uris") == one
    folder = localise("s3://pvtt/uris/clips/", tmp_path)
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {"a.mp4", "sub/b.mp4"}
    store.put_bytes("clips/a.mp4", b"new")
    again = localise("s3://pvtt/uris/clips/a.mp4", tmp_path)
    assert again != one and again.read_bytes() == b"new"
    for uri, error in (("s3://pvtt/uris/none", FileNotFoundError), ("s3://absent/x", FileNotFoundError), ("s3://pvtt/../x", ValueError)):
        with pytest.raises(error):
            localise(uri, tmp_path)
    with pytest.raises(ValueError, match="climbs out"):
        join("s3://pvtt/uris", "../x")
    assert not list(tmp_path.rglob("*.part"))


def test_a_prefix_of_videos_is_drafted_and_read_from_the_fetched_copy(moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_endpoint)
    store = S3Store("s3://pvtt/bucketful", moto_endpoint)
    for name, data in (("cups/a blue cup.mp4", b"\0\0\0\x20ftypisom"), ("cups/a blue cup.png", b"png"), ("cups/IMG_1.mp4", b"\0\0\0\x20ftypqt  ")):
        store.put_bytes(name, data)
    uri, cache = "s3://pvtt/bucketful", tmp_path / "cache"
    scan = read_source(localise(uri, cache), uri, ClipSpec(), lambda found: localise(found, cache), tmp_path / "drafts")
    assert [(line.source, line.product_id) for line in scan.lines] == [("cups/a blue cup.mp4", "cups")]
    assert [(r.source, r.kind) for r in scan.refusals] == [("cups/IMG_1.mp4", "no_reference")]
    answer = CliRunner().invoke(app, ["clips", "draft", uri, str(tmp_path / "m.jsonl")])
    assert answer.exit_code == 0, answer.output
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["video_path"] for line in lines] == [f"{uri}/cups/IMG_1.mp4", f"{uri}/cups/a blue cup.mp4"]
    written = read_manifest(tmp_path / "m.jsonl", str(tmp_path / "m.jsonl"), ClipSpec(), lambda found: localise(found, cache))
    assert len(written.lines) == 1 and written.lines[0].video_sha256 == scan.lines[0].video_sha256
