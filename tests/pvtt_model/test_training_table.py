"""docs/training.md's H100 table is what the plan says now, and its seconds are FLOPs over the stated rate."""

from __future__ import annotations

import pytest

from pvtt_model.training_table import BEGIN, DOCS, END, MFU, PEAK_FLOPS, STRATEGIES, page, planned, seconds_a_sample


def test_the_page_is_current():
    text = DOCS.read_text()
    assert page(text) == text, "run `python -m pvtt_model.training_table`"


def test_a_row_by_hand():
    tokens, stage = planned("1.3B", "480p", STRATEGIES["ZeRO-2"])
    assert tokens == 21 * 30 * 52
    assert seconds_a_sample(stage) == pytest.approx(stage.flops.total / (MFU * PEAK_FLOPS))
    assert planned("14B", "720p", STRATEGIES["DDP"])[0] == 21 * 45 * 80


def test_what_is_cut_is_a_worker_s_share():
    """14B: ZeRO-3 holds an eighth of the weights; FSDP2 of what is trained the float32 masters alone, which the optimizer counts."""
    whole, zero3, fsdp2 = (planned("14B", "480p", STRATEGIES[name])[1] for name in ("DDP", "ZeRO-3", "FSDP2"))
    assert whole.memory.weights == 2 * (whole.parameters.frozen + whole.parameters.trained)
    assert zero3.memory.weights == whole.memory.weights // 8
    assert fsdp2.memory.weights == 2 * whole.parameters.frozen // 8
    assert fsdp2.memory.optimizer == zero3.memory.optimizer == 12 * whole.parameters.trained // 8
    assert whole.memory.optimizer == 12 * whole.parameters.trained


def test_a_page_without_marks():
    with pytest.raises(ValueError, match="lacks the marks"):
        page("# Training\n")
    assert page(f"{BEGIN}\nold\n{END}").count("tokens") == 1
