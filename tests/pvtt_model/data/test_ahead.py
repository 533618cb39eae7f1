"""One item ahead, in order, no more."""

from __future__ import annotations

import threading
import time

import pytest

from pvtt_model.data.ahead import ahead


def test_results_come_in_order_made_one_ahead_in_a_thread_that_was_begun():
    log: list[str] = []

    def make(i: int) -> int:
        log.append(f"made {i}")
        assert threading.current_thread() is not threading.main_thread()
        return i * i

    for i, made in enumerate(ahead(make, range(5), lambda: log.append("begun"))):
        time.sleep(0.05)
        assert made == i * i and log == ["begun", *(f"made {k}" for k in range(min(i + 2, 5)))]
    assert list(ahead(make, [])) == []


def test_an_error_comes_in_its_place_and_the_thread_ends():
    def make(i: int) -> int:
        if i == 2:
            raise KeyError("two")
        return i

    seen: list[int] = []
    before = threading.active_count()
    with pytest.raises(KeyError, match="two"):
        for made in ahead(make, range(9)):
            seen.append(made)
    assert seen == [0, 1] and threading.active_count() == before


def test_who_stops_early_leaves_no_thread():
    before = threading.active_count()
    for _ in ahead(lambda i: i, range(9)):
        break
    time.sleep(0.1)
    assert threading.active_count() == before
