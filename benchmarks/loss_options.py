"""What the optional losses cost: seconds a step and peak memory against the plain flow loss, on nano-m.

    .venv/bin/python benchmarks/loss_options.py [--rounds 9] [--batch 8]        a table

Each arm is the loop's own loss, backward and AdamW, on the same clips of the nano world (64 x 64, 5 frames), one thread. Levels are drawn in
[0, 0.3] in every arm, where the identity loss is taken of every clip: its dearest case; under the recipe's own sampling it is as rare as such
levels are. Rounds go through all arms in turn; the median is said with the quartiles. Memory is how far one step raises the peak of a process
of its own above what it held before (resident set; Linux), so it holds what PyTorch's allocator keeps too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.vae import load_vae
from pvtt_model.nano.pretrain.loss_curves import Untrained, held_out, untrained
from pvtt_model.nano.shipped import shipped_folder
from pvtt_model.objectives.identity import LossModels
from pvtt_model.objectives.reference_reconstruction import attach_probe
from pvtt_model.recipes import recipe_by_name
from pvtt_model.training import step_loss

ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bell weights, joint dropout": {"weighting": "bell", "joint_dropout": 0.1},
    "reference reconstruction": {"reference_recon_weight": 0.1},
    "identity, 1 latent frame": {"identity_weight": 0.1, "identity_frames": 1},
    "identity, 2 latent frames": {"identity_weight": 0.1, "identity_frames": 2},
}


class Arm:
    """A teacher with its optimizer and its objective."""

    def __init__(self, options: dict[str, Any], batch: int, data: tuple[Any, Any]) -> None:
        recipe = recipe_by_name("nano")
        stage = recipe.stages[1]
        levels = {"sigma_low": 0.0, "sigma_high": 0.3, "identity_below": 1.0, "reference_dropout": 0.0}
        self.stage = stage.model_copy(update={"objective": stage.objective.model_copy(update=levels | options)})
        self.engine: Any = Untrained(untrained(recipe, stage).teacher)
        self.engine.teacher.train()
        if self.stage.objective.reference_recon_weight:
            attach_probe(self.engine.teacher, 0)
        self.models = None
        if self.stage.objective.identity_weight:
            vae, image = recipe.latents.vae, recipe.conditions.image_encoder
            self.models = LossModels(load_vae(vae, shipped_folder(vae.weights)), load_image_encoder(image, shipped_folder(image.weights)))
        self.optimizer = torch.optim.AdamW(self.engine.teacher.trainable().values(), lr=1e-4)
        self.samples, self.empty = data
        self.batch, self.max_text_tokens = batch, recipe.conditions.max_text_tokens

    def step(self, number: int) -> float:
        """Seconds."""
        started = time.perf_counter()
        draws = [(number * self.batch + i, (number * self.batch + i) % len(self.samples)) for i in range(self.batch)]
        loss = step_loss.micro_batch_loss(self.stage, self.engine, self.samples, self.empty, self.max_text_tokens, draws, self.models)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - started


def peak_mib(options: dict[str, Any], batch: int, data: tuple[Any, Any]) -> float:
    """MiB that one step adds to the peak of a fresh process."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        arm = Arm(options, batch, data)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status_mib("VmRSS")
        arm.step(0)
        os.write(write, str(_status_mib("VmHWM") - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    return float(os.read(read, 64))


def _status_mib(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = held_out(recipe_by_name("nano"), "train", 32)
    memory = {name: peak_mib(options, asked.batch, data) for name, options in ARMS.items()}
    arms = {name: Arm(options, asked.batch, data) for name, options in ARMS.items()}
    for arm in arms.values():
        arm.step(0)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(1, asked.rounds + 1):
        for name, arm in arms.items():
            seconds[name].append(arm.step(number))
    plain = statistics.median(seconds["plain"])
    print(
        f"{'arm':30} {'s a step':>9} {'quartiles':>17} {'of plain':>9} {'peak MiB':>9} {'of plain':>9}   {asked.rounds} rounds, batch {asked.batch}"
    )
    for name, taken in seconds.items():
        first, middle, third = statistics.quantiles(taken, n=4)
        print(f"{name:30} {middle:9.3f} {first:8.3f} {third:8.3f} {middle / plain:8.2f}x {memory[name]:9.0f} {memory[name] / memory['plain']:8.2f}x")


if __name__ == "__main__":
    main()
