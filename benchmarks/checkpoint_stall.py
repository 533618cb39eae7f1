"""What a checkpoint costs training: seconds blocked and bytes, ours against DeepSpeed's save_checkpoint of the same engine.

    PYTHONPATH=. .venv/bin/python benchmarks/checkpoint_stall.py [--rounds 9] [--width 384] [--layers 8]

A VACE teacher of random weights (LoRA rank 64 and reference adapter) under ZeRO-2, AdamW's moments there after one step. In each round every way
saves once, in turn; blocked is what the call takes, after which training may go on:

    ours                      BackgroundSaves.start: the copy; files, SHA-256 and the upload to a local store go on in the thread
    ours, awaited             the same until the checkpoint is committed: what a saving that does not go on by itself would block
    deepspeed                 save_checkpoint as it is by default
    deepspeed, trainable      save_checkpoint(exclude_frozen_parameters=True)

DeepSpeed's files stay on the disk it wrote to; ours are in the store, each with its hash. Prints a table of medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from infra.step_checkpoints import StepCheckpoints
from infra.store import LocalStore
from pvtt_model.artifacts import plan_artifact
from pvtt_model.backbones import architectures
from pvtt_model.specs import BackboneSpec, LoraSpec, OptimSpec, ParallelSpec, ReferenceSpec
from pvtt_model.training.background_saves import BackgroundSaves
from pvtt_model.training.deepspeed_engine import DeepSpeedEngine as Engine
from pvtt_model.training.host_copies import HostCopies
from pvtt_model.training.loop import _files
from pvtt_model.training.teacher import build_teacher


def engine_of(width: int, layers: int) -> Engine:
    """nano-s made wider and deeper."""
    small = architectures.architecture("nano-s")
    config = small.config | {"num_attention_heads": width // small.config["attention_head_dim"], "num_layers": layers, "ffn_dim": 4 * width}
    architectures.ARCHITECTURES["benchmark"] = small._replace(config=config)
    reference = ReferenceSpec(num_tokens=16, width=512, num_heads=8, space="own")
    base = BackboneSpec(architecture="benchmark", weights="seed:1")
    teacher = build_teacher(base, reference, LoraSpec(rank=64, alpha=64), "nano-dinov2", None, torch.float32, 0)
    parallel = ParallelSpec(num_workers=1, accelerator="cpu", zero_stage=2, grad_accum=1, precision="float32")
    engine = Engine(teacher, parallel, OptimSpec(warmup_steps=0), 0, 10)
    engine.backward(sum(p.square().sum() for p in engine.trainable))  # type: ignore[arg-type]
    return engine


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    engine = engine_of(asked.width, asked.layers)
    frozen = sum(p.numel() for p in engine.teacher.parameters() if not p.requires_grad)
    print(f"trained {sum(p.numel() for p in engine.trainable) / 1e6:.1f} M, frozen {frozen / 1e6:.1f} M parameters, float32")
    blocked: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        checkpoints = StepCheckpoints(LocalStore(root / "store"), plan_artifact("checkpoints", {"benchmark": 1}))

        def save(step: int, folder: Path, pinned: bool) -> None:
            checkpoints.commit(step, checkpoints.upload(step, folder), pinned)
            checkpoints.prune(1)
            sizes["ours"] = sizes["ours, awaited"] = bytes_of(folder)

        saves, copies = BackgroundSaves(save, root / "work"), HostCopies()

        def timed(way: str, call: Callable[[], object]) -> None:
            began = time.perf_counter()
            call()
            blocked.setdefault(way, []).append(time.perf_counter() - began)

        saves.start(0, lambda: _files(engine, engine.teacher, 0, None, copies), [])  # the first of a training touches fresh memory
        saves.finish()
        for step in range(1, asked.rounds + 1):
            began = time.perf_counter()
            timed("ours", lambda at=step: saves.start(at, lambda: _files(engine, engine.teacher, 0, None, copies), []))  # type: ignore[misc]
            saves.finish()
            blocked.setdefault("ours, awaited", []).append(time.perf_counter() - began)
            for way, told in (("deepspeed", {}), ("deepspeed, trainable", {"exclude_frozen_parameters": True})):
                folder = root / "deepspeed"
                timed(way, lambda to=folder, told=told: engine.engine.save_checkpoint(str(to), tag="a", **told))  # type: ignore[misc]
                sizes[way] = bytes_of(folder / "a")
    ours = statistics.median(blocked["ours"])
    print("| way | blocked, s (median) | least, most | MB | blocked, times ours |\n|---|---|---|---|---|")
    for way, seconds in blocked.items():
        middle = statistics.median(seconds)
        print(f"| {way} | {middle:.3f} | {min(seconds):.3f}, {max(seconds):.3f} | {sizes[way] / 1e6:.1f} | {middle / ours:.1f} |")


if __name__ == "__main__":
    main()
