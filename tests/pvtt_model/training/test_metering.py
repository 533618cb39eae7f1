"""MFU by hand, and where there is none."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import ParallelSpec
from pvtt_model.training.metering import Meter, model_flops, peak_flops

GPU = ParallelSpec(precision="bfloat16")


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA H200", 989.4), ("NVIDIA A100-SXM4-80GB", 312.0), ("NVIDIA L4", 121.0),
     ("NVIDIA A10G", 70.0), ("NVIDIA L40S", 362.0), ("NVIDIA GeForce RTX 4090", 165.2)],
)  # fmt: skip
def test_peaks_by_name(name, tflops):
    assert peak_flops(GPU, name) == tflops * 1e12


def test_what_is_not_known_is_not_invented():
    assert "no peak is known for a CPU" in peak_flops(GPU, None)
    assert "'NVIDIA X9'; set parallel.peak_tflops" in peak_flops(GPU, "NVIDIA X9")
    assert "float32" in peak_flops(ParallelSpec(precision="float32"), "NVIDIA H100 80GB HBM3")


def test_mfu_is_flops_times_samples_over_peak():
    recipe = recipe_by_name("nano", {"stages.*.parallel.peak_tflops": 0.5})
    stage = recipe.stages[0]
    record = {"samples_per_s": 30.0}
    found = Meter(recipe, stage, torch.device("cpu")).measure(record)
    assert found["mfu"] == pytest.approx(model_flops(recipe, stage) * 30.0 / (0.5e12 * stage.parallel.num_workers))
    assert 0.05 < found["memory_gib"] < 100 and "mfu" not in record


def test_a_cpu_has_no_mfu_and_says_why():
    recipe = recipe_by_name("nano")
    meter = Meter(recipe, recipe.stages[0], torch.device("cpu"))
    assert "mfu" not in meter.measure({"samples_per_s": 30.0})
    assert meter.why_no_mfu == "no peak is known for a CPU; set parallel.peak_tflops for one"


def test_checkpointing_repeats_and_does_not_count():
    recipe = recipe_by_name("wan2.1-vace-1.3b")
    off = recipe_by_name("wan2.1-vace-1.3b", {"stages.*.parallel.gradient_checkpointing": False, "stages.*.parallel.checkpointing": "full"})
    assert model_flops(recipe, recipe.stages[0]) == model_flops(off, off.stages[0])
