"""Step time lost to data with 50 ms of latency injected into every GET: ours, against PyTorch's DataLoader with one worker on a file a sample.

    PYTHONPATH=. .venv/bin/python benchmarks/data_stall.py [--steps 40] [--rounds 3] [--latency-ms 50]

Both take the same steps of the same nano teacher (micro-batch 4, one rank) through the same loss on the same samples in the same order, each
sample read once. Ours: loop.train's Samples with data.read='ranges' (two GETs a sample: a row of the latents and one of the conditions, each held
against its hash) and data.prefetch=8. DataLoader: num_workers=1, prefetch_factor 2 as by default, one GET a sample: a file that holds the whole
sample by torch.save. The first micro-batch is waited for by both before the clock starts.

Stall: the seconds in which the step waited for its data, summed; lost: of the wall time of all steps. Prints medians over rounds, and whether the
losses of both agree to the last bit.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pvtt_model.backbones.architectures import architecture
from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.data.tensor_rows import TensorRows
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import RecipeSpec
from pvtt_model.training.deepspeed_engine import DeepSpeedEngine as Engine
from pvtt_model.training.prefetch import Samples
from pvtt_model.training.samples import Place, Sample, read_sample
from pvtt_model.training.schedule import samples_of
from pvtt_model.training.step_loss import loss_of, make_micro_batch
from pvtt_model.training.teacher import build_teacher

MICRO = 4
CHANNELS, TEXT = (architecture("nano-s").config[name] for name in ("in_channels", "text_dim"))
IMAGE = architecture("nano-dinov2").config["width"]
ROWS_A_SHARD = 16


def recipe_of(steps: int) -> RecipeSpec:
    overrides: dict[str, Any] = {"stages.*.parallel.num_workers": 1, "stages.*.parallel.micro_batch": MICRO, "stages.*.parallel.grad_accum": 1}
    overrides |= {"stages.*.train.steps": steps, "stages.*.backbone.weights": "seed:10", "stages.*.backbone.sha256": None}
    return recipe_by_name("nano", overrides | {"stages.*.data.read": "ranges", "stages.*.data.prefetch": 8})


def write(folder: Path, count: int) -> list[Path]:
    """Shards of rows as curation writes them."""
    from safetensors.torch import save

    made = []
    for start in range(0, count, ROWS_A_SHARD):
        latents, conditions = [], []
        for i in range(start, min(count, start + ROWS_A_SHARD)):
            g = torch.Generator().manual_seed(i)
            z = {k: torch.randn(CHANNELS, 3, 16, 16, generator=g) for k in ("latents_CFHW", "inactive_CFHW", "reactive_CFHW")}
            c = {"text_LD": torch.randn(8, TEXT, generator=g), "reference_NPC": torch.randn(1, 16, IMAGE, generator=g)}
            common = {"clip_key": f"clip{i}", "usable": True, "reason": None}
            latents.append(common | {"tensors": save(z | {"maskbits_KFHW": torch.full((8, 3, 16, 16), 255, dtype=torch.uint8)})})
            conditions.append(common | {"tensors": save(c)})
        for kind, rows in (("latents", latents), ("conditions", conditions)):
            made.append(folder / f"{kind}{start}.parquet")
            write_shard(made[-1], rows, SCHEMAS[kind])
    return made


class Late:
    """Opens a shard whose every read is one GET that takes `latency_s`."""

    def __init__(self, path: Path, latency_s: float) -> None:
        self.path, self.latency_s = path, latency_s

    def __call__(self) -> TensorRows:
        data = self.path.read_bytes()

        def read(offset: int, length: int) -> np.ndarray:
            time.sleep(self.latency_s)
            return np.frombuffer(bytearray(data[offset : offset + length]), np.uint8)

        return TensorRows(read, len(data), str(self.path), check=True)


class Files(Dataset[Sample]):
    """A file a sample, one GET each."""

    def __init__(self, folder: Path, latency_s: float) -> None:
        self.folder, self.latency_s = folder, latency_s

    def __getitem__(self, index: int) -> Sample:
        time.sleep(self.latency_s)
        return torch.load(self.folder / f"{index}.pt", weights_only=False)  # written by this benchmark a moment ago


def steps_of(told: RecipeSpec, batches: Iterator[tuple[Any, float]]) -> tuple[float, float, list[float]]:
    """(seconds stalled, seconds of all, losses) of the steps after the first."""
    stage = told.stages[0]
    teacher = build_teacher(stage.backbone, stage.reference, stage.lora, "nano-dinov2", None, torch.float32, 0)
    engine = Engine(teacher.train(), stage.parallel, stage.optim, 0, stage.train.steps)
    stalled, losses, began = 0.0, [], 0.0
    for step, (made, waited_s) in enumerate(batches):
        if step == 0:
            began = time.perf_counter()
        else:
            stalled += waited_s
        engine.set_lr(step)
        loss = loss_of(stage, engine, made)
        engine.backward(loss)
        losses.append(float(loss.detach()))
    return stalled, time.perf_counter() - began, losses


def ours(told: RecipeSpec, places: list[Place], empty: torch.Tensor) -> Iterator[tuple[Any, float]]:
    samples = Samples(told.stages[0], places, empty, 32, 0, 1, torch.device("cpu"), 0)
    for _ in range(told.stages[0].train.steps):
        yield samples.next()
    samples.close()


def by_dataloader(told: RecipeSpec, folder: Path, latency_s: float, count: int, empty: torch.Tensor) -> Iterator[tuple[Any, float]]:
    """DataLoader reads and gives lists of samples in the same order; the collating is the same code, in the step."""
    stage = told.stages[0]
    every = [
        samples_of(step, 0, 0, seed=stage.train.seed, num_samples=count, micro_batch=MICRO, num_workers=1, grad_accum=1)
        for step in range(stage.train.steps)
    ]
    order = [[index for _, index in draws] for draws in every]
    loader = iter(DataLoader(Files(folder, latency_s), batch_sampler=order, num_workers=1, collate_fn=list))
    for draws in every:
        began = time.perf_counter()
        read = next(loader)
        waited_s = time.perf_counter() - began
        yield make_micro_batch(stage, read, empty, 32, [(draw, i) for i, (draw, _) in enumerate(draws)]), waited_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    told, count, latency_s = recipe_of(asked.steps), asked.steps * MICRO, asked.latency_ms / 1000
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "DataLoader, 1 worker": []}
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, empty = Path(name), torch.zeros(1, TEXT)
        write(folder, count)
        for i in range(count):
            at = i // ROWS_A_SHARD * ROWS_A_SHARD
            torch.save(
                read_sample(Place(f"clip{i}", folder / f"latents{at}.parquet", folder / f"conditions{at}.parquet", i - at)), folder / f"{i}.pt"
            )
        for _ in range(asked.rounds):
            late = {path.name: Late(path, latency_s) for path in folder.glob("*.parquet")}
            places = []
            for i in range(count):
                at = i // ROWS_A_SHARD * ROWS_A_SHARD
                places.append(Place(f"clip{i}", late[f"latents{at}.parquet"], late[f"conditions{at}.parquet"], i - at))
            ways = {"ours": ours(told, places, empty), "DataLoader, 1 worker": by_dataloader(told, folder, latency_s, count, empty)}
            for way, batches in ways.items():
                stalled, wall, losses[way] = steps_of(told, batches)
                found[way].append((stalled, wall))
    print(f"{asked.steps} steps, {MICRO} samples each, {asked.latency_ms:g} ms a GET; losses bit-equal: {losses['ours'] == losses[list(found)[1]]}\n")
    print("| reader | stall, s (median) | wall, s | lost, % of step time | ms a step |\n|---|---|---|---|---|")
    middle = {way: [statistics.median(column) for column in zip(*rounds, strict=True)] for way, rounds in found.items()}
    for way, (stalled, wall) in middle.items():
        print(f"| {way} | {stalled:.3f} | {wall:.2f} | {100 * stalled / wall:.2f} | {1000 * wall / (asked.steps - 1):.0f} |")
    print(f"\nDataLoader stalls {middle['DataLoader, 1 worker'][0] / max(middle['ours'][0], 1e-9):.1f} times as long.")


if __name__ == "__main__":
    main()
