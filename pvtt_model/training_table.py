"""The H100 limits of docs/training.md: tokens, FLOPs, seconds a step and memory of 1.3B and 14B at 480p and 720p, by the plan's arithmetic.

python -m pvtt_model.training_table writes them between their marks in docs/training.md. No weights, no GPU: nothing of it is measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pvtt_model.plan import GIB, StagePlan, plan_recipe
from pvtt_model.recipes import recipe_by_name

DOCS = Path(__file__).parents[1] / "docs" / "training.md"
BEGIN, END = (f"<!-- h100: {where}, by python -m pvtt_model.training_table -->" for where in ("begin", "end"))
#: Dense bfloat16 of an H100 SXM by NVIDIA's data sheet, and its memory by the recipes' gpu_memory_gib.
PEAK_FLOPS = 989.4e12
H100_GIB = 80
#: The share of the peak that a step is taken to reach; assumed, for a figure to plan with: 0.3 to 0.45 is what video transformers are reported at.
MFU = 0.4
BACKBONES = {"1.3B": ("wan2.1-vace-1.3b", 64), "14B": ("wan2.1-vace-14b", 128)}  # and the survey's LoRA rank
SIZES = {"480p": (832, 480), "720p": (1280, 720)}
WORKERS = 8
STRATEGIES: dict[str, dict[str, Any]] = {
    "one process, 1 GPU": {"strategy": "one", "num_workers": 1},
    "DDP": {"strategy": "ddp"},
    "ZeRO-2": {"zero_stage": 2},
    "ZeRO-3": {"zero_stage": 3},
    "FSDP2": {"strategy": "fsdp2"},
    "ZeRO-3, optimizer and weights on the CPU": {"zero_stage": 3, "offload_optimizer": True, "offload_params": True},
}


def planned(backbone: str, size: str, parallel: Mapping[str, Any]) -> tuple[int, StagePlan]:
    """(tokens, the stage's plan): 81 frames, micro-batch 1, no accumulation, bfloat16, all of a block recomputed."""
    name, rank = BACKBONES[backbone]
    width, height = SIZES[size]
    settings: dict[str, Any] = {
        "checkpointing": "full",
        "num_workers": WORKERS,
        "grad_accum": 1,
        "micro_batch": 1,
        "strategy": "deepspeed",
        **parallel,
    }
    overrides: dict[str, Any] = {f"stages.0.parallel.{key}": value for key, value in settings.items()}
    overrides |= {"stages.0.lora.rank": rank, "stages.0.lora.alpha": rank}
    overrides |= {"latents.video.width": width, "latents.video.height": height, "latents.video.buckets": []}
    plan = plan_recipe(recipe_by_name(name, overrides), "docs")
    return plan.tokens, plan.stages[0]


def seconds_a_sample(stage: StagePlan) -> float:
    return stage.flops.total / (PEAK_FLOPS * MFU)


def compute_lines() -> Iterator[str]:
    yield f"| backbone | size | tokens | trained | PFLOP a sample | s a sample at MFU {MFU:g} | samples an hour on {WORKERS} H100 |"
    yield "|---|---|---|---|---|---|---|"
    for backbone in BACKBONES:
        for size in SIZES:
            tokens, stage = planned(backbone, size, STRATEGIES["ZeRO-2"])
            seconds = seconds_a_sample(stage)
            yield (
                f"| {backbone} | {size} | {tokens:,} | {stage.parameters.trained / 1e6:,.0f} M | {stage.flops.total / 1e15:,.2f} "
                f"| {seconds:,.1f} | {3600 * WORKERS / seconds:,.0f} |"
            )


def memory_lines() -> Iterator[str]:
    columns = [f"{backbone}, {size}" for backbone in BACKBONES for size in SIZES]
    yield f"| GiB a GPU, {WORKERS} GPUs | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for name, parallel in STRATEGIES.items():
        cells = [_memory(planned(backbone, size, parallel)[1]) for backbone in BACKBONES for size in SIZES]
        yield f"| {name} | {' | '.join(cells)} |"


def _memory(stage: StagePlan) -> str:
    total = stage.memory.total / GIB
    held = f"{total:.1f}" if total <= H100_GIB else f"**{total:.1f}: does not fit**"
    return held + (f" and {stage.memory.host / GIB:.1f} on the host" if stage.memory.host else "")


def table() -> str:
    return "\n".join([*compute_lines(), "", *memory_lines()])


def page(text: str) -> str:
    """`text` with the table between its marks. Raises ValueError where it has none."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"the page lacks the marks '{BEGIN}' and '{END}'. Put them where the table belongs.")
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n{table()}\n{END}", text, flags=re.S)


if __name__ == "__main__":
    DOCS.write_text(page(DOCS.read_text()))
