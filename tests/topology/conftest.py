from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # native.py
sys.path.insert(0, str(Path(__file__).parents[1] / "survival"))  # small_run.py

from native import Topology, missing  # noqa: E402


@pytest.fixture(scope="session")
def topology() -> Iterator[Topology]:
    pytest.importorskip("prefect_redis", reason="prefect-redis is not installed: make install")
    absent = missing()
    if absent:
        pytest.skip(f"not here: {', '.join(absent)}. apt-get install -y --no-install-recommends postgresql redis-server ceph-mon ceph-osd radosgw")
    found = Topology()
    try:
        found.up()
        print(f"\nstarted in seconds: {found.seconds}")
        yield found
    finally:
        found.close()
