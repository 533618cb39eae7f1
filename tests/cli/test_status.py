"""pvtt status without a server; with one in tests/topology."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app


def test_without_a_server_it_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVTT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    answer = CliRunner().invoke(app, ["status"])
    assert answer.exit_code == 1 and "pvtt up" in answer.output and "PREFECT_API_URL" in answer.output
