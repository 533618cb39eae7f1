"""20 steps against the losses kept in tests/golden/losses.json: what changes the mathematics of a step is seen, by whichever file it came in.

Tolerance 1e-4 of a loss and 1e-3 of a gradient norm, relative: another CPU or BLAS sums in another order, and AdamW, whose first steps are of
the size of lr in every number, carries the differences on. On the CPU that wrote them they agree to the last bit.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.write_losses import LOSSES, STEPS, golden_job
from tests.pvtt_model.training.test_loop_resume import Records, run_jobs


def as_kept(records: Records) -> None:
    kept = json.loads(LOSSES.read_text())
    assert len(records) == STEPS
    assert [r["loss"] for r in records] == pytest.approx(kept["loss"], rel=1e-4)
    assert [r["grad_norm"] for r in records] == pytest.approx(kept["grad_norm"], rel=1e-3)


def test_one_process(tmp_path):
    as_kept(run_jobs(tmp_path, [golden_job("one", 1, strategy="one")])["one"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel",
    [{"strategy": "ddp"}, {"strategy": "fsdp2"}, *({"zero_stage": stage} for stage in range(4))],
    ids=lambda p: "-".join(map(str, p.values())),
)
def test_two_workers(tmp_path, parallel: dict[str, Any]):
    as_kept(run_jobs(tmp_path, [golden_job("two", 2, **parallel)])["two"])
