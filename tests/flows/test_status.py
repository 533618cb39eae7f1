"""What `pvtt status` and the metrics make of a run; read from a real server in tests/topology."""

from __future__ import annotations

import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from flows.status import Doing, Seen, as_metrics, as_table, span
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
    assert found["pvtt_run_seconds"].labels == {"flow": "pvtt", "run": "nano on [x]", "run_id": "8908cea9-ec", "state": "Running"}


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
