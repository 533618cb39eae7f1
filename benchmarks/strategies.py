"""Every strategy trains the nano model over the same 50 steps with two workers: losses side by side, memory held, CPU time of a step.

python -m benchmarks.strategies [--steps 50] [--precision float32] [--only ddp,fsdp2] [--write]

--write puts the table between the marks in docs/training.md. Data are random latents and conditions of the nano recipe's shapes: what is compared is
the engines. One thread a worker; every strategy's workers are fresh processes, forked of one that has loaded the libraries.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import resource
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save

from pvtt_model.backbones.architectures import architecture
from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.nano.shipped import shipped_folder
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import RecipeSpec
from pvtt_model.training.loop import Hooks, train
from pvtt_model.training.samples import Place
from pvtt_model.training.teacher import build_teacher

#: A step is two micro-batches of two samples in each.
STRATEGIES: dict[str, dict[str, Any]] = {
    "one process": {"strategy": "one", "num_workers": 1, "grad_accum": 2},
    "DDP": {"strategy": "ddp"},
    "FSDP2": {"strategy": "fsdp2"},
    **{f"ZeRO-{stage}": {"zero_stage": stage} for stage in range(4)},
    "ZeRO-2, optimizer on the CPU": {"zero_stage": 2, "offload_optimizer": True},
    "ZeRO-3, optimizer and weights on the CPU": {"zero_stage": 3, "offload_optimizer": True, "offload_params": True},
    "FSDP2, fused AdamW": {"strategy": "fsdp2", "fused": True},
}
#: Relative difference of a step's loss from that of one process. float32: sums in another order, carried on by AdamW over the steps.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
DOCS = Path(__file__).parents[1] / "docs" / "training.md"
MARKS = "<!-- strategies: {}, by benchmarks/strategies.py -->"
CLIPS = 16


def recipe(settings: dict[str, Any], steps: int, precision: str) -> RecipeSpec:
    parallel = {"num_workers": 2, "micro_batch": 2, "grad_accum": 1, "precision": precision, **settings}
    fused = parallel.pop("fused", False)
    overrides = {f"stages.*.parallel.{name}": value for name, value in parallel.items()}
    overrides |= {"stages.*.train.steps": steps, "stages.*.train.checkpoint_every_steps": steps, "stages.*.optim.fused": fused}
    return recipe_by_name("nano", overrides)


def places(folder: Path, of: RecipeSpec, grid: tuple[int, int, int] = (2, 8, 8)) -> list[Place]:
    """Random rows, by default in the shapes of the nano recipe's: 2 latent frames of 8 x 8, and one reference picture."""
    config = architecture(of.stages[0].backbone.architecture).config
    image = architecture(of.conditions.image_encoder.architecture).config
    generator = torch.Generator().manual_seed(0)
    latents, conditions = [], []
    for i in range(CLIPS):
        z: dict[str, torch.Tensor] = {
            name: torch.randn(config["in_channels"], *grid, generator=generator) for name in ("latents_CFHW", "inactive_CFHW", "reactive_CFHW")
        }
        c = {
            "text_LD": torch.randn(12, config["text_dim"], generator=generator),
            "reference_NPC": torch.randn(1, 16, image["width"], generator=generator),
            "words_LD": torch.randn(3, config["text_dim"], generator=generator),
        }
        common = {"clip_key": f"clip{i}", "usable": True, "reason": None}
        latents.append(common | {"tensors": save(z | {"maskbits_KFHW": torch.full((8, *grid), 255, dtype=torch.uint8)})})
        conditions.append(common | {"tensors": save(c)})
    write_shard(folder / "latents.parquet", latents, SCHEMAS["latents"])
    write_shard(folder / "conditions.parquet", conditions, SCHEMAS["conditions"])
    return [Place(f"clip{i}", folder / "latents.parquet", folder / "conditions.parquet", i) for i in range(CLIPS)]


class Watch(Hooks):
    """Hooks that take the CPU time of every step, and after the last what tensors are alive."""

    def __init__(self, steps: int) -> None:
        self.steps, self.cpu_s, self.held_bytes = steps, [time.process_time()], 0

    def on_step(self, record: dict[str, float]) -> None:
        self.cpu_s.append(time.process_time())
        if record["step"] + 1 == self.steps:
            gc.collect()
            storages = {}
            for thing in gc.get_objects():
                if issubclass(type(thing), torch.Tensor):
                    own = getattr(thing, "_local_tensor", thing)
                    storages[own.untyped_storage().data_ptr()] = own.untyped_storage().nbytes()
            self.held_bytes = sum(storages.values())


def work(of: RecipeSpec, clips: list[Place], folder: Path) -> dict[str, Any]:
    stage = of.stages[0]
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = Watch(0)
    held.on_step({"step": -1})
    dtype = torch.bfloat16 if stage.parallel.precision == "bfloat16" else torch.float32
    image = of.conditions.image_encoder.architecture
    teacher = build_teacher(stage.backbone, stage.reference, stage.lora, image, shipped_folder(stage.backbone.weights), dtype, stage.train.seed)
    watch = Watch(stage.train.steps)
    empty = torch.zeros(1, architecture(stage.backbone.architecture).config["text_dim"])
    records = train(stage, teacher, clips, empty, of.conditions.max_text_tokens, watch, folder)
    steps_s = [b - a for a, b in zip(watch.cpu_s[2:], watch.cpu_s[3:], strict=False)] or [0.0]
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "losses": [r["loss"] for r in records],
        "norms": [r["grad_norm"] for r in records],
        "held_mb": (watch.held_bytes - held.held_bytes) / 1e6,
        "peak_mb": (peak_kib - before_kib) * 1024 / 1e6,
        "cpu_ms": 1e3 * statistics.median(steps_s),
    }


def run(folder: Path, name: str, steps: int, precision: str) -> dict[str, Any]:
    """One strategy's figures; of two workers the larger memory and the larger CPU time. Raises RuntimeError with the worker's traceback."""
    of = recipe(STRATEGIES[name], steps, precision)
    folder.mkdir(parents=True)
    clips, world = places(folder, of), of.stages[0].parallel.num_workers
    children = [_forked(of, clips, folder, rank, world) for rank in range(world)]
    for child in children:
        os.waitpid(child, 0)
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
    for one in found:
        if "error" in one:
            raise RuntimeError(f"{name}: {one['error']}")
    return found[0] | {key: max(one[key] for one in found) for key in ("held_mb", "peak_mb", "cpu_ms")}


def _forked(of: RecipeSpec, clips: list[Place], folder: Path, rank: int, world: int) -> int:
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)  # torch makes its pool of threads anew after a fork; left to two threads at once, they race: "Invalid thread pool"
    try:
        os.environ["LOCAL_RANK"] = str(rank)
        if world > 1:
            dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
        result = work(of, clips, folder / "work")
    except Exception:
        result = {"error": traceback.format_exc()}
    (folder / f"{rank}.json").write_text(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


def furthest(losses: Sequence[float], others: Sequence[float]) -> float:
    """The largest relative difference of a step."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True))


def table(found: dict[str, dict[str, Any]], steps: int, precision: str) -> str:
    first = found[next(iter(STRATEGIES))]
    lines = [
        f"{precision}, {steps} steps, two workers of one thread on CPU (gloo); tolerance {TOLERANCE[precision]:g} of the loss of every step.",
        "",
        "| strategy | last loss | furthest from one process | gradient norms | tensors held a worker, MB | peak over start, MB | CPU a step, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        apart, norms = furthest(one["losses"], first["losses"]), furthest(one["norms"], first["norms"])
        lines.append(
            f"| {name} | {one['losses'][-1]:.6f} | {apart:.1e} | {norms:.1e} | {one['held_mb']:.1f} | {one['peak_mb']:.0f} | {one['cpu_ms']:.0f} |"
        )
    return "\n".join(lines)


def put(text: str, precision: str) -> None:
    """The table into docs/training.md, between its marks."""
    start, end = (MARKS.format(f"{where} {precision}") for where in ("begin", "end"))
    page = DOCS.read_text()
    if start not in page or end not in page:
        raise ValueError(f"{DOCS} lacks the marks '{start}' and '{end}'. Put them where the table belongs.")
    DOCS.write_text(re.sub(f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n{text}\n{end}", page, flags=re.S))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--precision", choices=list(TOLERANCE), default="float32")
    parser.add_argument("--only", default=",".join(STRATEGIES).replace(", ", "; "))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    names = [name for name in STRATEGIES if name.replace(", ", "; ") in given.only.split(",")]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(names):
            found[name] = run(Path(folder) / str(i), name, given.steps, given.precision)
            print(name, {key: value for key, value in found[name].items() if key not in ("losses", "norms")}, found[name]["losses"][-1], flush=True)
    text = table(found, given.steps, given.precision)
    print(text)
    if given.write:
        put(text, given.precision)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
