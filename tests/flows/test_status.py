"""What `pvtt status` and the metrics make of a run; read from a real server in tests/topology."""

from __future__ import annotations

import asyncio
import logging
from uuid import uuid4

import pytest
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Running
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from flows.status import Doing, Seen, as_metrics, as_table, seen, span
from infra.held import count, counted, so_far
from tasks import run_page

MADE = [
    {"artifact": "clips/a1", "how": "reused", "seconds": 0.1, "gpu_hours": 0.0, "worker_hours": 0.0},
    {"artifact": "latents/b2", "how": "made", "seconds": 60.0, "gpu_hours": 1.5, "worker_hours": 2.0},
    {"artifact": "checkpoints/c3", "how": "made", "seconds": 90.0, "gpu_hours": 0.5, "worker_hours": 0.25},
]
RUN = Seen(
    "8908cea9-ec", "nano on [x]", "pvtt", "Running", 441.0, [Doing("train stage verify", 25.0, "training verify: 5 of 20 2/s, 8 s left")], MADE, ""
)


def test_the_table_says_what_it_does_how_long_still_what_it_cost_and_what_came_out() -> None:
    console = Console(width=180, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_table([RUN, RUN._replace(state="Completed", doing=[], message="release: s3://x/releases/1")]))
    text = console.export_text()
    for word in ("nano on [x]", "7 min", "8 s left (25 %)", "2.00 GPU-h", "2.25 worker-h", "latents/b2", "1 reused", "release: s3://x/releases/1"):
        assert word in text, text
    assert "clips/a1" not in text
    assert [span(s) for s in (42.4, 441, 9000)] == ["42 s", "7 min", "2.5 h"]


def test_prometheus_reads_the_metrics() -> None:
    found = {s.name: s for family in text_string_to_metric_families(as_metrics([RUN]).decode()) for s in family.samples}
    assert {name: sample.value for name, sample in found.items()} == {
        "pvtt_run_seconds": 441.0, "pvtt_run_gpu_seconds": 7200.0, "pvtt_run_worker_seconds": 8100.0, "pvtt_run_artifacts_made": 2.0,
        "pvtt_task_progress_ratio": 0.25,
    }  # fmt: skip
    labels = {"flow": "pvtt", "run": "nano on [x]", "run_id": "8908cea9-ec", "project": ""}
    assert found["pvtt_run_seconds"].labels == labels | {"state": "Running"}
    assert found["pvtt_task_progress_ratio"].labels == labels | {"task": "train stage verify"}


class Server:
    """Two runs as a client would read them: one of a project, one of none."""

    def __init__(self) -> None:
        self.runs = [FlowRun(flow_id=uuid4(), name=n, tags=t, state=Running()) for n, t in (("a", ["pvtt", "project:mugs"]), ("b", ["pvtt"]))]
        self.asked: list[FlowRunFilter] = []

    async def read_flow_runs(self, flow_run_filter: FlowRunFilter, **_: object) -> list[FlowRun]:
        self.asked.append(flow_run_filter)
        return self.runs if StateType.RUNNING in flow_run_filter.state.type.any_ else []

    async def nothing(self, **_: object) -> list[object]:
        return []

    read_flows = read_artifacts = read_task_runs = nothing


def test_a_runs_project_is_read_from_its_tag_and_asked_for_by_it() -> None:
    server = Server()
    both = asyncio.run(seen(server))
    assert [(run.name, run.project) for run in both] == [("a", "mugs"), ("b", "")]
    families = {family.name: family for family in text_string_to_metric_families(as_metrics(both).decode())}
    assert [sample.labels["project"] for sample in families["pvtt_run_seconds"].samples] == ["mugs", ""]
    assert all(asked.tags is None for asked in server.asked)
    asyncio.run(seen(server, project="mugs"))
    assert [asked.tags.all_ for asked in server.asked[2:]] == [["project:mugs"]] * 2


def test_what_work_held_is_counted_also_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 25.0])
    monkeypatch.setattr("infra.held.time.monotonic", lambda: next(clock))
    before = so_far()
    count(gpus=2, workers=2, seconds=30)
    with pytest.raises(KeyError), counted(gpus=4, workers=8):
        raise KeyError
    assert (so_far().gpu_s - before.gpu_s, so_far().worker_s - before.worker_s) == (2 * 30 + 4 * 15, 2 * 30 + 8 * 15)


def test_a_row_holds_what_its_own_work_took_and_outside_of_a_run_nothing_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), run_page.told("edits/1") as row:
        count(gpus=3, workers=1, seconds=3600)
        row["how"] = "reused"
    assert (row["gpu_hours"], row["worker_hours"], row["how"], row["artifact"]) == (3.0, 1.0, "reused", "edits/1")
    assert not caplog.text and not run_page._ROWS
