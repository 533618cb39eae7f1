"""Which failures are tried again."""

from __future__ import annotations

import errno
import logging
import pickle
from types import SimpleNamespace

import pytest
import ray
import torch
from botocore.exceptions import EndpointConnectionError

from infra.failures import TrainingFailed, WorkerLost, can_pass, kind_of
from infra.store.base import ObjectMissing, StoreRefused
from pvtt_model.preflight.check import PreflightFailed
from pvtt_model.training.out_of_memory import DoesNotFit
from tasks import policy


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (WorkerLost("gone"), "transient"),
        (ConnectionError("reset"), "transient"),
        (TimeoutError("late"), "transient"),
        (EndpointConnectionError(endpoint_url="http://x"), "transient"),
        (ObjectMissing("gc took it"), "transient"),
        (OSError(errno.EIO, "input/output error"), "transient"),
        (ray.exceptions.OutOfMemoryError("the machine was full"), "transient"),
        (RuntimeError("Connection closed by peer"), "transient"),
        (ValueError("no stage 'x'"), "data"),
        (PreflightFailed("2 of 9 checks"), "data"),
        (FloatingPointError("loss is nan"), "data"),
        (FileNotFoundError("clips.jsonl"), "data"),
        (PermissionError("/data"), "data"),
        (StoreRefused("ignores conditional puts"), "data"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (MemoryError(), "memory"),
        (DoesNotFit("lower micro_batch"), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "memory"),
        (AttributeError("'NoneType'"), "bug"),
        (NotImplementedError(), "bug"),
        (UnboundLocalError("x"), "bug"),
        (ModuleNotFoundError("flash_attn"), "bug"),
        (TypeError("unexpected keyword"), "bug"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_the_kind_of_an_error(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind and can_pass(error) is (kind == "transient")


def test_a_workers_finding_stays_and_names_the_training() -> None:
    error = pickle.loads(pickle.dumps(TrainingFailed("3f9a: DoesNotFit: lower micro_batch", "memory")))
    assert kind_of(error) == "memory" and str(error) == "3f9a: DoesNotFit: lower micro_batch" and isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("error", "run_count", "again"),
    [
        (ConnectionError("away"), 5, True),
        (WorkerLost("killed"), policy.LOST_RETRIES, True),
        (WorkerLost("killed"), policy.LOST_RETRIES + 1, False),
        (AttributeError("x"), 1, False),
        (MemoryError(), 1, False),
    ],
)
def test_what_a_task_tries_again(
    error: Exception, run_count: int, again: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(policy, "get_run_logger", lambda: logging.getLogger("failures"))

    def result() -> None:
        raise pickle.loads(pickle.dumps(error))  # as it comes back

    with caplog.at_level(logging.WARNING):
        assert policy.worth_retrying(None, SimpleNamespace(run_count=run_count), SimpleNamespace(result=result)) is again
    assert f"failed ({kind_of(error)}: {type(error).__name__})" in caplog.text


def test_the_delays_together_outlast_a_minute() -> None:
    delays = policy.POLICY["retry_delay_seconds"](policy.RETRIES)
    assert delays == [2, 4, 8, 16, 32] and sum(delays) >= 60
