"""A path or an s3:// uri becomes a local path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import infra.uris
from cli.main import app
from infra.store.s3 import S3Store
from infra.uris import is_remote, join, localise
from pvtt_model.data.manifest import read_manifest
from pvtt_model.data.source import read_source
from pvtt_model.specs import ClipSpec

from fault_proxy import FaultProxy  # isort: skip


@pytest.fixture
def wire(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between localise and the server: counts, and does harm."""
    proxy = FaultProxy(moto_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
    yield proxy
    proxy.close()


def fetched(wire: FaultProxy, since: int = 0) -> list[str]:
    """The objects that were downloaded, by their names; listings are no downloads."""
    targets = [r.split(" ")[1] for r in wire.requests[since:] if r.startswith("GET ")]
    return sorted(t.rpartition("/")[2] for t in targets if "list-type" not in t)


def shown(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def on_disk(folder: Path) -> int:
    """Bytes of files, a hard-linked one once."""
    return sum({(s.st_dev, s.st_ino): s.st_size for s in (p.stat() for p in folder.rglob("*") if p.is_file())}.values())


def test_local_paths_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "a b.mp4").write_bytes(b"1")
    for uri in (str(tmp_path / "a b.mp4"), f"file://{tmp_path}/a%20b.mp4"):
        assert localise(uri, tmp_path / "cache") == tmp_path / "a b.mp4" and not is_remote(uri)
    assert localise("a b.mp4", tmp_path / "cache", root=tmp_path) == tmp_path / "a b.mp4"
    with pytest.raises(FileNotFoundError, match="what it is relative to"):
        localise("nope", tmp_path, root=tmp_path)
    with pytest.raises(ValueError, match="s3://bucket/key"):
        localise("gs://x/y", tmp_path)


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data", "https://pvtt.example.com/x", "ftp://h/x", "gopher://h/x", "s3://169.254.169.254/latest",
        "s3://localhost:9000/x", "s3://evil.example.com#/x", "s3://evil.example.com?x=/y", "s3://arn:aws:s3:eu-central-1:1:accesspoint/x",
        "s3://[::1]/x", "s3://..%2f/x", "s3://pvtt%00/x", "s3://PVTT/x", "s3:///x", "S3://pvtt/x",
    ],
)  # fmt: skip
def test_no_uri_leads_to_another_server(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.uris, "s3_client", lambda endpoint: pytest.fail("a client was made"))
    with pytest.raises(ValueError):
        localise(uri, tmp_path)


def test_only_the_buckets_that_are_allowed(moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_endpoint)
    S3Store("s3://pvtt/allowed", moto_endpoint).put_bytes("a", b"1")
    monkeypatch.setenv("PVTT_BUCKETS", "weights, pvtt")
    assert localise("s3://pvtt/allowed/a", tmp_path).read_bytes() == b"1"
    with pytest.raises(ValueError, match=r"bucket 'others' is not one of PVTT_BUCKETS \(weights, pvtt\)"):
        localise("s3://others/a", tmp_path)


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


def test_only_what_is_new_at_a_prefix_is_downloaded(moto_endpoint: str, wire: FaultProxy, tmp_path: Path) -> None:
    store = S3Store("s3://pvtt/growing", moto_endpoint)
    clips = {f"{i % 2}/{i}.mp4": bytes([i]) * 1000 for i in range(6)}
    for name, data in clips.items():
        store.put_bytes(name, data)
    first = localise("s3://pvtt/growing", tmp_path)
    assert shown(first) == clips and len(fetched(wire)) == 6
    at = len(wire.requests)
    assert localise("s3://pvtt/growing", tmp_path) == first and not fetched(wire, at)
    for name, data in {"0/6.mp4": b"6" * 1000, "1/3.mp4": b"another" * 200}.items():
        at, before = len(wire.requests), shown(first)
        store.put_bytes(name, data)
        clips[name] = data
        again = localise("s3://pvtt/growing", tmp_path)
        assert again != first and shown(again) == clips and fetched(wire, at) == [name.rpartition("/")[2]]
        assert shown(first) == before, "who reads the earlier place goes on"
    assert on_disk(tmp_path) == 7 * 1000 + 1400, "each object once, the changed one twice"
    at = len(wire.requests)
    assert localise("s3://pvtt/growing/0/6.mp4", tmp_path).read_bytes() == b"6" * 1000 and not fetched(wire, at), "a file of a prefix fetched before"
    assert not [p for p in tmp_path.rglob("*.mp4") if os.access(p, os.W_OK) and os.stat(p).st_mode & 0o222]


def test_after_a_kill_only_what_is_missing_is_downloaded(
    moto_endpoint: str, wire: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store("s3://pvtt/killed", moto_endpoint)
    clips = {f"{i}.mp4": bytes([i]) * 100 for i in range(5)}
    for name, data in clips.items():
        store.put_bytes(name, data)
    download, left = infra.uris.download, [3]

    def cut_off(client: Any, bucket: str, key: str, path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            path.with_name(".half.part").write_bytes(b"hal")  # as SIGKILL leaves it
            raise KeyboardInterrupt
        download(client, bucket, key, path)

    monkeypatch.setattr(infra.uris, "download", cut_off)
    with pytest.raises(KeyboardInterrupt):
        localise("s3://pvtt/killed", tmp_path)
    assert not list(tmp_path.rglob("*.mp4")), "whole or not at all"
    monkeypatch.setattr(infra.uris, "download", download)
    at = len(wire.requests)
    assert shown(localise("s3://pvtt/killed", tmp_path)) == clips and fetched(wire, at) == ["3.mp4", "4.mp4"]
    half = tmp_path / infra.uris.OBJECTS / ".half.part"
    day_ago = time.time() - 2 * 86400
    assert half.exists(), "it may be another's, at work"
    os.utime(half, (day_ago, day_ago))
    infra.uris._sweep.cache_clear()
    store.put_bytes("5.mp4", b"five")
    localise("s3://pvtt/killed", tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_an_object_that_changes_under_way_is_listed_anew(
    moto_endpoint: str, wire: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store("s3://pvtt/moving", moto_endpoint)
    for name in ("a.mp4", "b.mp4"):
        store.put_bytes(name, b"old")
    download, times = infra.uris.download, [1]

    def meanwhile(client: Any, bucket: str, key: str, path: Path) -> None:
        if key.endswith("b.mp4") and times[0]:
            times[0] -= 1
            store.put_bytes("b.mp4", f"new {times[0]}".encode())
        download(client, bucket, key, path)

    monkeypatch.setattr(infra.uris, "download", meanwhile)
    assert shown(localise("s3://pvtt/moving", tmp_path)) == {"a.mp4": b"old", "b.mp4": b"new 0"}
    times[0] = 99
    store.put_bytes("b.mp4", b"never at rest")
    with pytest.raises(OSError, match="changed 3 times while it was fetched. Let the upload end"):
        localise("s3://pvtt/moving", tmp_path)


def test_two_processes_at_once(moto_endpoint: str, wire: FaultProxy, tmp_path: Path) -> None:
    store = S3Store("s3://pvtt/shared", moto_endpoint)
    clips = {f"{i}.mp4": bytes([i]) * 100 for i in range(8)}
    for name, data in clips.items():
        store.put_bytes(name, data)
    code = "import sys; from infra.uris import localise; print(localise('s3://pvtt/shared', sys.argv[1]))"
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    places = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert places[0] == places[1] and shown(Path(places[0])) == clips
    assert not list(tmp_path.rglob("*.part")) and len(list((tmp_path / infra.uris.OBJECTS).iterdir())) == 8
