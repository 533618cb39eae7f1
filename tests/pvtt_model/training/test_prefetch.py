"""Made ahead, in order, and no more than were asked for."""

from __future__ import annotations

import threading
import time

import pytest

from pvtt_model.training.prefetch import Prefetch


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_in_order_whatever_each_takes(ahead):
    def make(key: int) -> int:
        time.sleep(0.02 if key % 3 == 0 else 0)
        return key * key

    made = Prefetch(make, range(9), ahead)
    assert [made.next()[0] for _ in range(9)] == [key * key for key in range(9)]
    with pytest.raises(StopIteration):
        made.next()
    made.close()


def test_as_many_ahead_as_asked_and_no_more():
    begun, go = [], threading.Event()

    def make(key: int) -> int:
        begun.append(key)
        assert go.wait(30)
        return key

    made = Prefetch(make, range(100), ahead=3)
    ends_s = time.monotonic() + 30
    while len(begun) < 3 and time.monotonic() < ends_s:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(begun) == [0, 1, 2], "side by side, and bounded"
    go.set()
    assert made.next()[0] == 0
    made.close()


def test_what_is_ready_is_not_waited_for():
    made = Prefetch(lambda key: time.sleep(0.1), range(2), ahead=2)
    time.sleep(0.3)
    assert made.next()[1] < 0.05
    made.close()


def test_an_error_comes_where_its_turn_is():
    def make(key: int) -> int:
        if key == 1:
            raise ValueError("row 1 is of another clip")
        return key

    made = Prefetch(make, range(3), ahead=3)
    assert made.next()[0] == 0
    with pytest.raises(ValueError, match="row 1"):
        made.next()
    made.close()
