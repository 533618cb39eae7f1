"""What a step cost of the device: its share of the peak (MFU), and the memory at its highest.

MFU after PaLM (arXiv:2204.02311, appendix B): the FLOPs that the model needs, without what checkpointing repeats, over the time and the peak.
FLOPs are those of `pvtt plan` (plan_flops: matrix products, the largest bucket's tokens, so with several buckets it is an upper bound).
"""

from __future__ import annotations

import resource
import sys
import time

import torch

from pvtt_model.plan_flops import first_frame_tokens, sample_flops, video_tokens
from pvtt_model.plan_memory import picture_tokens
from pvtt_model.specs import ParallelSpec, RecipeSpec, StageSpec

GIB = 2**30
#: Dense bfloat16 peaks in TFLOP/s by what the device's name holds, from the vendor's data sheets; the first that fits counts. Sparse figures are
#: twice these.
PEAKS: tuple[tuple[str, float], ...] = (
    ("B200", 2250.0), ("H200", 989.4), ("H100 PCIe", 756.0), ("H100 NVL", 835.0), ("H100", 989.4), ("H800", 989.4), ("A100", 312.0),
    ("A800", 312.0), ("L40S", 362.0), ("L4", 121.0), ("A10G", 70.0), ("A10", 125.0), ("RTX 4090", 165.2), ("RTX 3090", 71.0),
)  # fmt: skip


def peak_flops(parallel: ParallelSpec, device_name: str | None) -> float | str:
    """FLOP/s of one device, or in words why that is not known. device_name: as torch.cuda.get_device_name has it; None on a CPU."""
    if parallel.peak_tflops is not None:
        return parallel.peak_tflops * 1e12
    if device_name is None:
        return "no peak is known for a CPU; set parallel.peak_tflops for one"
    if parallel.precision != "bfloat16":
        return f"the table of peaks is of bfloat16, and this stage computes in {parallel.precision}; set parallel.peak_tflops"
    words = f" {device_name} "
    found = next((peak for name, peak in PEAKS if f" {name} " in words or f" {name}-" in words or f" {name}" == words.rstrip()), None)
    return found * 1e12 if found else f"no peak is known for '{device_name}'; set parallel.peak_tflops"


class Meter:
    """Measures steps on one device; `why_no_mfu` says in words why there is no MFU, and is empty where there is one."""

    def __init__(self, recipe: RecipeSpec, stage: StageSpec, device: torch.device) -> None:
        peak = peak_flops(stage.parallel, torch.cuda.get_device_name(device) if device.type == "cuda" else None)
        self.device, self.why_no_mfu = device, peak if isinstance(peak, str) else ""
        self.share = 0.0 if isinstance(peak, str) else model_flops(recipe, stage) / (peak * stage.parallel.num_workers)

    def measure(self, record: dict[str, float]) -> dict[str, float]:
        """at_s, seconds since the epoch; memory_gib, the highest so far on this rank: allocated on a GPU, resident on a CPU; and mfu, 0 to 1,
        where the peak is known."""
        found = {"at_s": time.time(), "memory_gib": peak_bytes(self.device) / GIB}
        return found | ({"mfu": self.share * record["samples_per_s"]} if self.share else {})


def model_flops(recipe: RecipeSpec, stage: StageSpec) -> int:
    """Of one training sample, forward and backward, nothing twice."""
    tokens = video_tokens(recipe.latents)
    flops = sample_flops(stage, tokens, recipe.conditions.max_text_tokens, picture_tokens(recipe), first_frame_tokens(recipe))
    return flops.forward + flops.backward


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has had: allocated on the GPU, or resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
