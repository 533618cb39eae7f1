"""When a new release is worse than the last: by the gate's metrics alone, by edits not done, or because nothing could be compared."""

from __future__ import annotations

from typing import Any

import pytest

from pvtt_model.evaluation.compare import compare
from pvtt_model.evaluation.edit_scores import EditScores, Score
from pvtt_model.evaluation.report import Report, aggregate
from pvtt_model.recipes import NANO
from pvtt_model.specs import GateSpec, Threshold
from tasks.compare_reports import why_worse


def report(done: int = 10, failed: int = 0, **shift: float) -> Report:
    """Edits i = 0, 1, ... with the values 20 + i, shifted by (i % 2) / 10 and, each metric, by its own shift."""

    def scores(i: int) -> dict[str, Score]:
        return {name: Score(name=name, value=20.0 + i + (i % 2) / 10 + by, direction="higher") for name, by in shift.items()}

    edits = [EditScores(clip_key=f"c{i}", reference_key="r", status="done", scores=scores(i)) for i in range(done)]
    edits += [EditScores(clip_key=f"c{done + i}", reference_key="r", status="failed", reason="it broke") for i in range(failed)]
    return aggregate("refine", edits, NANO.stages[-1].evaluate)


def gate(*metrics: str) -> GateSpec:
    return GateSpec(thresholds=tuple(Threshold(metric=name, op=">", value=0.0) for name in metrics))


CASES: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...], list[str]]] = [
    ({"psnr": -1.0}, {"psnr": 0.0}, ("psnr",), ["psnr is worse: 23.55, the last release 24.55; difference -1"]),
    ({"psnr": 1.0, "ssim": -1.0}, {"psnr": 0.0, "ssim": 0.0}, ("psnr",), []),
    ({"clip_i[judge]": -1.0}, {"clip_i[judge]": 0.0}, ("clip_i",), ["clip_i[judge] is worse"]),
    ({"psnr": 0.0}, {"psnr": 0.0}, ("psnr",), []),
    ({"done": 7, "psnr": -1.0}, {"done": 7, "psnr": 0.0}, ("psnr",), []),  # too few to tell
    ({"done": 9, "failed": 1, "psnr": 1.0}, {"psnr": 0.0}, ("psnr",), ["9 of 10 edits were done, by the last release 10 of 10"]),
    ({"psnr": 1.0}, {"psnr": 0.0}, ("fvd",), ["the gate names fvd, and none of it could be compared"]),
]


@pytest.mark.parametrize("new, old, named, said", CASES)
def test_what_is_worse(new: dict[str, Any], old: dict[str, Any], named: tuple[str, ...], said: list[str]) -> None:
    ours, theirs = report(**new), report(**old)
    found = why_worse(ours, theirs, compare(ours, theirs), gate(*named), 0.0)
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True)), found


def test_a_small_loss_is_let_pass() -> None:
    """24.55 to 23.55 is 4.07 %, and sure: the paired differences are all 1."""
    ours, theirs = report(psnr=-1.0), report(psnr=0.0)
    assert [len(why_worse(ours, theirs, compare(ours, theirs), gate("psnr"), share)) for share in (0.0, 0.04, 0.05)] == [1, 1, 0]
