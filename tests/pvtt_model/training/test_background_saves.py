"""Checkpoints in a thread: in order, one at a time, awaited at the end, their errors raised in training."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pvtt_model.training.background_saves import BackgroundSaves


def one(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"rank0.safetensors": {"a": torch.full((2,), value)}}


def test_training_goes_on_while_one_is_sent_and_the_next_waits_for_it(tmp_path):
    begun, may_end, order = threading.Event(), {1: threading.Event(), 2: threading.Event()}, []

    def save(step: int, folder: Path, pinned: bool) -> None:
        begun.set()
        assert may_end[step].wait(30)
        order.append((step, float(load_file(folder / "rank0.safetensors")["a"][0]), pinned, json.loads((folder / "state.json").read_text())))

    saves, records = BackgroundSaves(save, tmp_path), [{"step": 0}]
    saves.start(1, lambda: one(1.0), records)
    assert begun.wait(30)
    records.append({"step": 1})  # training goes on
    saves.check()
    assert order == []
    threading.Timer(0.2, may_end[1].set).start()
    saves.start(2, lambda: one(2.0), records, pinned=True)
    assert [o[0] for o in order] == [1] and saves.waited_s >= 0.15, "one at a time"
    may_end[2].set()
    saves.finish()
    assert order == [(1, 1.0, False, {"step": 1, "records": [{"step": 0}]}), (2, 2.0, True, {"step": 2, "records": [{"step": 0}, {"step": 1}]})]


def test_an_error_is_raised_once_at_the_next_look_or_at_the_end(tmp_path):
    def save(step: int, folder: Path, pinned: bool) -> None:
        raise OSError(f"no room for {step}")

    saves = BackgroundSaves(save, tmp_path)
    saves.start(1, lambda: one(1.0), None)
    with pytest.raises(OSError, match="no room for 1"):
        saves.finish()
    saves.check()
    saves.start(2, lambda: one(1.0), None)
    with pytest.raises(OSError, match="no room for 2"):
        saves.start(3, lambda: one(1.0), None)
