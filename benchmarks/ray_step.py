"""The whole step under Ray Train and DeepSpeed against the bare loop: one plain process of torch, no Ray. Bar: 1.03 of the CPU time.

    PYTHONPATH=. .venv/bin/python -m benchmarks.ray_step [--rounds 9] [--steps 2] [--width 384] [--layers 8]

Both train the same stage at train_step.py's size (width 384, 8 layers, 1,280 video tokens: latents of 5 x 32 x 32, one sample a step, checkpointing
on, float32; nano-s's reference adapter and VACE blocks with it; ZeRO-2 under Ray) with the same samples, in processes of
their own, neither niced (Ray runs its workers at nice 15 unless RAY_worker_niceness says another: beside other work that alone cost 1.4 times the
CPU), and take turns: a round is `steps` steps of the one, then of the other, and who waits sleeps. CPU time is that of the training process with
all of its threads (time.process_time), and wall time beside it; Ray's own daemons are not in it. Prints the medians and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pvtt_model.training.loop import Hooks

SIDES = ("ray", "bare")
WARM_UP = 2  # rounds, not counted
GRID = (5, 32, 32)  # latents: frames, height, width


class Turns(Hooks):
    """Hooks that take turns with the other side by files, and keep each round's CPU and wall seconds."""

    def __init__(self, folder: Path, side: str, steps: int) -> None:
        self.folder, self.side, self.steps = folder, side, steps
        self.taken = 0
        self.wait(0)

    def wait(self, turn: int) -> None:
        """Until the other side is done with its round before: `ray` begins, and round n of `bare` follows round n of `ray`."""
        other = self.folder / (f"bare-{turn - 1}" if self.side == "ray" else f"ray-{turn}")
        while not other.exists() and not (self.side == "ray" and turn == 0):
            time.sleep(0.01)
        self.started = time.process_time(), time.perf_counter()

    def on_step(self, record: dict[str, float]) -> None:
        if (record["step"] + 1) % self.steps == 0:
            cpu, wall = time.process_time() - self.started[0], time.perf_counter() - self.started[1]
            part = self.folder / f"{self.side}-{self.taken}.part"
            part.write_text(json.dumps([cpu, wall]))
            part.rename(part.with_suffix(""))
            self.taken += 1
            self.wait(self.taken) if self.taken < self.of_rounds else None

    of_rounds = 0


def work(given: dict[str, Any], side: str) -> None:
    """One side's training. Under Ray its hooks also say every step to the board, as StoreHooks do."""
    import torch

    from benchmarks.strategies import places
    from pvtt_model.backbones import architectures
    from pvtt_model.recipes import recipe_by_name
    from pvtt_model.specs import BackboneSpec
    from pvtt_model.training.loop import train
    from pvtt_model.training.teacher import build_teacher

    torch.set_num_threads(1)
    folder, total = Path(given["folder"]), given["steps"] * (given["rounds"] + WARM_UP)
    parallel: dict[str, Any] = {"num_workers": 1, "micro_batch": 1, "grad_accum": 1, "gradient_checkpointing": True, "zero_stage": 2}
    parallel["strategy"] = "deepspeed" if side == "ray" else "one"
    overrides = {f"stages.*.parallel.{key}": value for key, value in parallel.items()}
    recipe = recipe_by_name("nano", overrides | {"stages.*.train.steps": total, "stages.*.train.checkpoint_every_steps": total})
    small = architectures.architecture("nano-s")
    heads = given["width"] // small.config["attention_head_dim"]
    config = small.config | {"num_attention_heads": heads, "num_layers": given["layers"], "ffn_dim": 4 * given["width"]}
    architectures.ARCHITECTURES["benchmark"] = small._replace(config=config)
    stage = recipe.stages[0].model_copy(update={"backbone": BackboneSpec(architecture="benchmark", weights="seed:1")})
    own = folder / f"data-{side}"
    own.mkdir()
    clips = places(own, recipe, GRID)
    teacher = build_teacher(
        stage.backbone, stage.reference, stage.lora, recipe.conditions.image_encoder.architecture, None, torch.float32, stage.train.seed
    )
    Turns.of_rounds = given["rounds"] + WARM_UP
    empty = torch.zeros(1, config["text_dim"])
    train(stage, teacher, clips, empty, recipe.conditions.max_text_tokens, Turns(folder, side, given["steps"]), own / "work")


def ray_worker(given: dict[str, Any], reporter: Any) -> None:
    work(given, "ray")


def ray_side(given: dict[str, Any]) -> None:
    from infra.ray_launch import start_ray, train_on_ray
    from infra.settings import settings

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 Ray spells it so
    where = settings(given["folder"] + "/store")
    start_ray(where)
    train_on_ray(
        "benchmarks.ray_step:ray_worker", given, name="ray-step", settings=where, num_workers=1, use_gpu=False, max_restarts=0,
        on_progress=lambda said: None,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--side")
    parser.add_argument("--folder")
    given = vars(parser.parse_args())
    if given["side"]:
        ray_side(given) if given["side"] == "ray" else work(given, "bare")
        return
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            subprocess.Popen([sys.executable, "-m", "benchmarks.ray_step", "--side", side, "--folder", folder,
                              *(part for key in ("rounds", "steps", "width", "layers") for part in (f"--{key}", str(given[key])))]) for side in SIDES
        ]  # fmt: skip
        for one in sides:
            if one.wait():
                raise SystemExit("a side failed; see above")
        rounds = range(WARM_UP, given["rounds"] + WARM_UP)
        medians = {}
        for side in SIDES:
            figures = [json.loads((Path(folder) / f"{side}-{n}").read_text()) for n in rounds]
            medians[side] = [statistics.median(column) / given["steps"] for column in zip(*figures, strict=True)]
            print(f"{side}: {1e3 * medians[side][0]:.1f} ms of CPU a step, {1e3 * medians[side][1]:.1f} ms of wall")
    cpu, wall = (ray / bare for ray, bare in zip(medians["ray"], medians["bare"], strict=True))
    print(f"ray + deepspeed / bare: {cpu:.3f} of CPU (bar 1.03), {wall:.3f} of wall")


if __name__ == "__main__":
    main()
