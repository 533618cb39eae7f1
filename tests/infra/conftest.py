"""The stores under test: a local folder, S3 over the wire by moto's server, and (slow) by Ceph RGW."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.artifact_store import ArtifactStore
from infra.store import LocalStore, ObjectStore
from infra.store.s3 import S3Store, s3_client

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # fault_proxy.py


@pytest.fixture(scope="session", autouse=True)
def credentials() -> Iterator[None]:
    changes = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SKSKSKSK", "AWS_DEFAULT_REGION": "us-east-1"}
    gone = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN", "PVTT_CACHE")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setenv(name, value)
        for name in gone:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def moto_endpoint(credentials: None) -> Iterator[str]:
    """moto checks and then writes, without a lock, on a thread a request: the lock here gives it the atomicity that S3 promises."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if "HTTP_IF_NONE_MATCH" in environ:
            with one_at_a_time:
                return moto(environ, start_response)
        return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    s3_client(endpoint).create_bucket(Bucket="pvtt")
    yield endpoint
    server.shutdown()


@pytest.fixture(scope="session")
def ceph_endpoint(credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    needed = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{missing} not installed: apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw")
    folder = f"/tmp/pvtt-ceph-{os.getpid()}"  # short: a unix socket's path holds 107 bytes
    script = str(HERE / "ceph_rgw.sh")
    try:
        done = subprocess.run([script, "start", folder, str(_free_port())], stdout=subprocess.PIPE, text=True, timeout=120)
        if done.returncode != 0:
            pytest.fail(f"Ceph did not start; see {folder}/log")
        endpoint = done.stdout.strip().splitlines()[-1]
        s3_client(endpoint).create_bucket(Bucket="pvtt")
        yield endpoint
    finally:
        subprocess.run([script, "stop", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["local", "moto", pytest.param("ceph", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """The same tests for every backend; each test has a store of its own."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return S3Store(f"s3://pvtt/{uuid.uuid4().hex}", request.getfixturevalue(f"{request.param}_endpoint"))


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.slow)])
def s3_endpoint(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_endpoint"))


@pytest.fixture
def artifacts(store: ObjectStore, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(store, tmp_path / "cache")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = int(sock.getsockname()[1])
    return min(port, 65000)
