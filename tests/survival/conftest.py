"""One server and worker for all kill tests, an S3 server, and an undisturbed run to compare with."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # house.py, small_run.py

from house import House  # noqa: E402
from small_run import RUN_TIMEOUT_S, Watched, parameters  # noqa: E402

from infra.store.s3 import s3_client  # noqa: E402


@pytest.fixture(scope="session")
def puts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line for every PUT that the S3 server saw."""
    path = tmp_path_factory.mktemp("s3") / "puts.txt"
    path.touch()
    return path


@pytest.fixture(scope="session")
def s3_environment(puts: Path) -> Iterator[dict[str, str]]:
    server = subprocess.Popen([sys.executable, str(HERE / "moto_server.py"), str(puts)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    endpoint = server.stdout.readline().strip()
    environment = {
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": "SKSKSKSK",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": endpoint,
    }
    before = dict(os.environ)
    os.environ.update(environment)
    s3_client(endpoint).create_bucket(Bucket="pvtt")
    yield environment
    server.kill()
    server.wait()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def built_house(tmp_path_factory: pytest.TempPathFactory, s3_environment: dict[str, str]) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"), s3_environment)
    try:
        house.up()
        yield house
    finally:
        house.down()


@pytest.fixture
def house(built_house: House) -> Iterator[House]:
    """With its services up, and after the test without its runs."""
    built_house.up()
    yield built_house
    built_house.end_runs()


@pytest.fixture(scope="session")
def undisturbed(built_house: House) -> Watched:
    """The store of a run that nobody touched."""
    uri = str(built_house.home / "stores" / "undisturbed")
    run = built_house.start(parameters(uri))
    ended = built_house.wait(run, RUN_TIMEOUT_S)
    assert ended[0] == "COMPLETED", f"{ended}\n{built_house.tell()}"
    return Watched(uri)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, house: House, puts: Path) -> Watched:
    name = uuid.uuid4().hex[:8]
    return Watched(str(house.home / "stores" / name)) if request.param == "local" else Watched(f"s3://pvtt/{name}", puts)
