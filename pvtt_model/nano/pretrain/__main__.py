"""`make nano-weights`: train every nano model from its seed, in order, and pack it. A finished part is not trained again.

    python -m pvtt_model.nano.pretrain [--work FOLDER] [--only vae,text,...] [--threads N] [--no-pack]

One process, one model after the other: on few cores two trainings at once only slow each other. The steps below are what the
shipped weights are meant to have; what they really had stands in each one's card (weights/index.json).
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.backbones.vae import load_vae
from pvtt_model.nano.pretrain.clip import train_clip
from pvtt_model.nano.pretrain.dit import encode_world, load_latents, train_base
from pvtt_model.nano.pretrain.optimise import Progress
from pvtt_model.nano.pretrain.pack import pack
from pvtt_model.nano.pretrain.text import train_text
from pvtt_model.nano.pretrain.vae import train_vae
from pvtt_model.nano.pretrain.video import train_video
from pvtt_model.nano.pretrain.vision import train_image_encoder
from pvtt_model.specs import ModelSpec

SEED = {"vae": 0, "text": 1, "dinov2": 2, "clip": 3, "video": 4, "world": 5, "judge": 7, "nano-s": 10, "nano-m": 11}
STEPS = {
    "vae": 12_000,
    "vae-decoder": 4_000,
    "text": 500,
    "dinov2": 6_500,
    "judge": 3_500,
    "clip": 1_000,
    "video": 500,
    "nano-s": 8_000,
    "nano-m": 10_000,
}
CHUNKS = 256  # of 64 clips: the world that the bases see
DATA = "pvtt_model.nano world, products of the training split, rendered as they are asked for"


def run(work: Path, names: list[str], packed: bool) -> None:
    """Train and pack the named parts."""
    for name in names:
        folder = work / name
        if (folder / "card.json").is_file():
            print(f"{name}: done before, {folder / 'card.json'}", flush=True)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            with (folder / "curve.csv").open("w", newline="") as file:
                score = TRAINERS[name](work, folder, _say(name, csv.writer(file), started))
            steps = {k: v for k, v in STEPS.items() if k == name or k == f"{name}-decoder"}
            card = {"data": DATA, "seed": SEED[name], "steps": steps, "minutes": round((time.monotonic() - started) / 60, 1), "score": score}
            (folder / "card.json").write_text(json.dumps(card, indent=1))
        if packed:
            print(name, pack(name, folder, json.loads((folder / "card.json").read_text())), flush=True)


def _say(name: str, curve: Any, started: float) -> Progress:
    def say(step: int, record: dict[str, float]) -> None:
        curve.writerow([step, round(time.monotonic() - started), *(round(v, 5) for v in record.values())])
        print(f"{name} step {step} " + " ".join(f"{k} {v:.4g}" for k, v in record.items()), flush=True)

    return say


def _vae(work: Path, folder: Path, say: Progress) -> dict[str, float]:
    train_vae(SEED["vae"], STEPS["vae"], folder, say)
    return train_vae(SEED["vae"], STEPS["vae-decoder"], folder, say, resume=folder / "vae.part.pt", decoder_only=True, first=STEPS["vae"])


def _base(name: str) -> Callable[[Path, Path, Progress], dict[str, float]]:
    def train(work: Path, folder: Path, say: Progress) -> dict[str, float]:
        vae = load_vae(ModelSpec(architecture="nano-vae", weights=str(work / "vae")), work / "vae")
        text = load_text_encoder(ModelSpec(architecture="nano-umt5", weights=str(work / "text")), work / "text")
        world = work / "world"
        world.mkdir(exist_ok=True)
        for first in range(0, CHUNKS, 8):
            path = world / f"{first:04d}.safetensors"
            if not path.is_file():
                encode_world(vae, SEED["world"], range(first, first + 8), path.with_suffix(".part"), lambda step, record: None)
                path.with_suffix(".part").rename(path)
        latents, whose = load_latents(sorted(world.glob("*.safetensors")), SEED["world"])
        last: dict[str, float] = {}

        def told(step: int, record: dict[str, float]) -> None:
            last.update(record)
            say(step, record)

        train_base(name, SEED[name], STEPS[name], latents, whose, text, folder, told)
        return {"loss": last["loss"]}

    return train


TRAINERS: dict[str, Callable[[Path, Path, Progress], dict[str, float]]] = {
    "vae": _vae,
    "text": lambda work, folder, say: train_text(SEED["text"], STEPS["text"], folder, say),
    "dinov2": lambda work, folder, say: train_image_encoder("nano-dinov2", SEED["dinov2"], STEPS["dinov2"], 1e-3, folder, say, init_values=1.0),
    "judge": lambda work, folder, say: train_image_encoder("nano-judge", SEED["judge"], STEPS["judge"], 2e-3, folder, say),
    "clip": lambda work, folder, say: train_clip(SEED["clip"], STEPS["clip"], folder, say),
    "video": lambda work, folder, say: train_video(SEED["video"], STEPS["video"], folder, say),
    "nano-s": _base("nano-s"),
    "nano-m": _base("nano-m"),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="train the nano models and pack them")
    parser.add_argument("--work", type=Path, default=Path(".pvtt/nano"))
    parser.add_argument("--only", default=",".join(TRAINERS), help=f"of {', '.join(TRAINERS)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-pack", action="store_true", help="leave pvtt_model/nano/weights as they are")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    unknown = sorted(set(asked.only.split(",")) - set(TRAINERS))
    if unknown:
        parser.error(f"no part {unknown}; valid: {', '.join(TRAINERS)}")
    run(asked.work, [n for n in TRAINERS if n in asked.only.split(",")], not asked.no_pack)
