"""Out of memory, by a real refusal of the CPU's allocator: what was measured, what was planned, and settings that would fit."""

from __future__ import annotations

import re

import pytest
import torch

from pvtt_model.preflight.memory import GIB, Room, figures_of, need_of
from pvtt_model.recipes import recipe_by_name
from pvtt_model.training.out_of_memory import is_out_of_memory, what_would_fit


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 52, dtype=torch.uint8)
    assert is_out_of_memory(refused.value) and is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shape [3] against [0]"))


def test_three_settings_by_the_plan_that_was_corrected_by_the_peak():
    recipe = recipe_by_name("nano", {"stages.*.parallel.micro_batch": 64, "stages.*.parallel.num_workers": 1})
    stage = recipe.stages[0]
    said = what_would_fit(MemoryError("DefaultCPUAllocator: can't allocate memory"), recipe, stage, 1, Room(None, 4 * GIB, 1))
    assert "stage 'verify' ran out of memory on this machine: DefaultCPUAllocator: can't allocate memory" in said
    peak, planned, there = (float(x) for x in re.search(r"peak of this worker ([\d.]+) GiB, planned ([\d.]+), there is ([\d.]+)", said).groups())
    assert planned == pytest.approx(need_of(figures_of(recipe, stage)).host / GIB, abs=0.01) and there == 4 and peak > 0.1
    assert said.count("[") == 3 or "By the plan no setting fits" in said
