"""What progress says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks.clip_table import _refused
from tasks.ui import pace


@pytest.mark.parametrize(
    ("seconds", "done", "left", "said"),
    [
        (4.0, 10, 100, "2.5/s, 40 s left"),
        (0.0, 0, 5, ""),
        (9.0, 0, 5, ""),
        (10.0, 20, 0, "2/s"),
        (600.0, 10, 20, "1/min, 20 min left"),
        (10.0, 1, 1000, "0.1/s, 2.8 h left"),
    ],
)
def test_pace(seconds: float, done: float, left: float, said: str) -> None:
    assert pace(seconds, done, left) == said


def test_refused_rows_are_counted_at_every_step() -> None:
    assert _refused(SimpleNamespace(summary={"clips": [{"clip_key": "a"}], "refusals": [{"kind": "x"}, {"kind": "y"}]})) == 2
    assert _refused(SimpleNamespace(summary={"masks": [{"usable": True}, {"usable": False}, {"usable": False}]})) == 2
    assert _refused(SimpleNamespace(summary={})) == 0
