"""The project of a place: where it comes from, what is refused, and a store's prefix made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local_services import LocalServices
from infra.settings import settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PVTT_HOME", str(tmp_path))
    for name in ("PVTT_PROJECT", "PVTT_STORE"):
        monkeypatch.delenv(name, raising=False)


def test_none_unless_named_and_the_argument_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert settings().project is None and settings().store == str(tmp_path / "store")
    monkeypatch.setenv("PVTT_PROJECT", "mugs")
    assert (settings().project, settings(project="cups").project) == ("mugs", "cups")
    assert settings().store == str(tmp_path / "store"), "projects share a store"
    monkeypatch.setenv("PVTT_PROJECT", "")
    assert settings().project is None


@pytest.mark.parametrize("name", ["Mugs", "-", "a b", "../x", "a/b", "a.b", "x" * 33, "mugs\n", "müsli"])
def test_a_name_that_cannot_be_a_key_or_a_tag_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="cannot be a project's name. Give 1 to 32 lower-case letters"):
        settings(project=name)
    monkeypatch.setenv("PVTT_PROJECT", name)
    with pytest.raises(ValueError, match="cannot be a project's name"):
        settings()


def test_a_prefix_a_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PVTT_STORE", "s3://bucket/{project}/store")
    assert settings(project="mugs").store == "s3://bucket/mugs/store"
    assert settings().cache == tmp_path / "cache", "what needs no store asks for no project"
    with pytest.raises(ValueError, match=r"the store is 's3://bucket/\{project\}/store', and no project is named. Name it"):
        _ = settings().store
    assert settings("s3://other/x").store == "s3://other/x"
    assert settings(str(tmp_path / "{project}"), "cups").store == str(tmp_path / "cups")


def test_the_worker_of_pvtt_up_serves_every_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVTT_STORE", "s3://bucket/{project}")
    services = {name: LocalServices(settings(project=name)) for name in ("mugs", "cups")}
    digests = set()
    for name, of_project in services.items():
        monkeypatch.setenv("PVTT_PROJECT", name)
        environment = of_project.environment()
        assert environment["PVTT_STORE"] == "s3://bucket/{project}" and "PVTT_PROJECT" not in environment
        digests.add(of_project._environment_digest())
    assert len(digests) == 1, "one project's command does not restart the worker under another's run"
