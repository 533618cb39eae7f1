"""For every test: one thread a process (waiting threads of several processes slow each other manyfold), and no telemetry."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is loaded anywhere, and inherited by every process that a test starts.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false")
os.environ.update(DO_NOT_TRACK="1", PREFECT_SERVER_ANALYTICS_ENABLED="false", HF_HUB_DISABLE_TELEMETRY="1", RAY_USAGE_STATS_ENABLED="0")

import pytest  # noqa: E402

from infra.python_gc import few_collections  # noqa: E402

few_collections()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    if "torch" in sys.modules:  # a test that needs no torch does not load it
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos and products. Skips where it is absent."""
    path = Path(os.environ.get("PVTT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (path / "videos").is_dir():
        pytest.skip(f"no shared data at {path}; set PVTT_SHARED_DATA")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright. Skips where one of them is absent."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine (apt install chromium)")
    with sync.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
