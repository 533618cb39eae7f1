"""What a loss may not be, what is then said, and which state is the best."""

from __future__ import annotations

import logging
import math

import pytest

from pvtt_model.specs import TrainSpec
from pvtt_model.training.bad_steps import answer, what_is_wrong
from pvtt_model.training.records import by_validation, is_best, summary_of

STOP, SKIP = TrainSpec(steps=1, spike_factor=3), TrainSpec(steps=1, spike_factor=3, on_bad_loss="skip", max_skipped=2)
BEFORE = [{"step": i, "loss": loss} for i, loss in enumerate([1.0] * 6 + [2.0] * 5)]  # median 1


def test_a_spike_is_above_so_many_medians_of_steps_that_were_not_skipped():
    assert what_is_wrong(3.0, BEFORE, STOP) is None
    assert what_is_wrong(3.01, BEFORE, STOP) == "loss is 3.01, above 3 x the median 1 of the 11 steps before"
    assert what_is_wrong(3.01, BEFORE[:9], STOP) is None, "too few to tell"
    assert what_is_wrong(3.01, BEFORE[:9] + [{"step": 9, "loss": 1.0, "skipped": 1.0}] * 5, STOP) is None, "a skipped step tells nothing"
    assert what_is_wrong(1e9, BEFORE, TrainSpec(steps=1)) is None, "none is, unless asked for"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_not_finite(loss):
    assert what_is_wrong(loss, [], TrainSpec(steps=1)) == f"loss is {loss}"


def test_stop_names_the_clips_of_the_bad_micro_batch():
    with pytest.raises(FloatingPointError, match=r"loss is nan in step 4 on clips \['b'\].*lower optim.lr \(0.001\).*on_bad_loss='skip'"):
        answer(STOP, [], 4, 1e-3, "loss is nan", [("a", 1.0), ("b", math.nan)])


def test_skip_logs_and_gives_up_after_so_many_in_a_row(caplog):
    with caplog.at_level(logging.WARNING):
        answer(SKIP, [*BEFORE, {"step": 11, "loss": 9.0, "skipped": 1.0}], 12, 1e-3, "loss is 9, a spike", [("a", 8.5), ("b", 9.5)])
    assert "loss is 9, a spike in step 12 on clips ['a', 'b'] (losses [8.5, 9.5]): the step is skipped" in caplog.text
    with pytest.raises(FloatingPointError, match="after 2 skipped steps in a row"):
        answer(SKIP, [*BEFORE, *[{"step": 11 + i, "loss": 9.0, "skipped": 1.0} for i in range(2)]], 13, 1e-3, "a spike", [])


def test_the_best_is_by_validation_never_by_training_loss():
    losses = [(0.5, None), (0.1, 0.4), (0.9, 0.2), (0.05, math.nan), (0.3, 0.2)]
    records = [{"step": i, "loss": loss} | ({} if v is None else {"validation": v}) for i, (loss, v) in enumerate(losses)]
    assert by_validation(records) == [3, 5, 2], "the earlier of equals; what is no number counts not"
    assert [is_best(records[: n + 1]) for n in range(5)] == [False, True, True, False, False]
    assert by_validation([{"step": 0, "loss": 0.0}]) == []


def test_the_summary_counts_skipped_steps():
    assert "skipped_steps" not in summary_of(BEFORE)
    assert summary_of([*BEFORE, {"step": 11, "loss": 9.0, "skipped": 1.0}])["skipped_steps"] == 1
