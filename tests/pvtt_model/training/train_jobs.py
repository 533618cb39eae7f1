"""Runs training jobs one after another, each in a process of its own, and writes what they recorded. A script, started by test_loop_resume.py.

    python train_jobs.py FOLDER JOBS     JOBS: JSON list of {"name", "overrides", "steps", "resume": name of an earlier job or null}, and
                                         "buckets": true where the clips are to be of two sizes, "workers": processes, over gloo, where more than one,
                                         "resume_at": the step to resume at, 3 unless said,
                                          "spoilt": true where a clip's latents are not finite,
                                         "backbone": [architecture, expert or null] where it is to be another than the recipe's,
                                         "validate": true where the last two clips are for validation, "optimizer_of": an earlier job whose
                                         optimizer, and trained tensors, this one starts with

The parent imports the libraries and forks: a job is a fresh process, without the seconds that importing torch costs.
"""

# ruff: noqa: E402

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Container
from pathlib import Path
from typing import Any

from infra.python_gc import few_collections, usual_collections

few_collections()

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.conditioning import velocity
from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import BackboneSpec
from pvtt_model.training.loop import Hooks, Resume, train
from pvtt_model.training.samples import Place
from pvtt_model.training.teacher import Teacher, build_teacher, load_trainable
from pvtt_model.training.validation import Validation

CLIPS = 5
CHANNELS, TEXT = (architecture("nano-s").config[name] for name in ("in_channels", "text_dim"))
IMAGE = architecture("nano-dinov2").config["width"]
CLIP_WIDTH = architecture("nano-openclip").config["vision_cfg"]["width"]
#: Of the nano recipe, what these tests count on: they are of the loop, not of the recipe's numbers.
SETTINGS: dict[str, Any] = {
    **{f"stages.*.parallel.{name}": value for name, value in {"num_workers": 1, "micro_batch": 2, "grad_accum": 2, "zero_stage": 2}.items()},
    **{f"stages.*.optim.{name}": value for name, value in {"lr": 1e-3, "warmup_steps": 4, "decay": "constant"}.items()},
    "stages.*.lora.dropout": 0.05,
    "stages.*.backbone.weights": "seed:10",
    "stages.*.backbone.sha256": None,
    "stages.*.train.checkpoint_every_steps": 3,
}


class Keep(Hooks):
    """Hooks that copy every saved state to `folder`/stepN."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step(self, record: dict[str, float]) -> None:
        pass

    def validated(self, record: dict[str, float]) -> None:
        assert "validation" in record

    def sample(self, step: int, teacher: Teacher) -> None:
        """A forward pass of the transformer by itself, as editing does it, and random numbers drawn and reseeded."""
        assert not teacher.training and not torch.is_grad_enabled()
        torch.manual_seed(step)
        z = torch.randn(1, CHANNELS, 3, 4, 4)
        context = torch.randn(1, teacher.transformer.config.vace_in_channels, 3, 4, 4)
        answer = velocity(teacher.transformer, teacher.kind, z, torch.tensor([500.0]), torch.randn(1, 32, TEXT), context, None)
        assert torch.isfinite(answer).all()

    def save(self, step: int, folder: Path, pinned: bool) -> None:
        shutil.copytree(folder, self.folder / f"step{step}", dirs_exist_ok=True)  # a folder a rank, files of their own


def places(folder: Path, portrait: Container[int] = (), channels: int = CHANNELS, spoilt: Container[int] = ()) -> list[Place]:
    """Latents and conditions of `CLIPS` clips of random numbers, with prompts and reference counts of unequal length; some portrait."""
    folder.mkdir(exist_ok=True)
    size = [(6, 4) if i in portrait else (4, 4) for i in range(CLIPS)]  # latent height, width
    generator, more = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    latents, conditions = [], []
    for i in range(CLIPS):
        z = {k: torch.randn(channels, 3, *size[i], generator=generator) for k in ("latents_CFHW", "inactive_CFHW", "reactive_CFHW")}
        c = {"text_LD": torch.randn(3 + i, TEXT, generator=generator), "reference_NPC": torch.randn(1 + i % 2, 4, IMAGE, generator=generator)}
        if i in spoilt:
            z["latents_CFHW"][0, 0, 0, 0] = torch.nan
        pictures = 1 + i % 2  # and what the other injections read of them
        z["references_NCFHW"] = torch.randn(pictures, channels, 1, *size[i], generator=more)
        c |= {"reference_NC": torch.randn(pictures, IMAGE, generator=more), "clip_NPC": torch.randn(pictures, 5, CLIP_WIDTH, generator=more)}
        first = torch.Generator().manual_seed(i)  # of their own: the draws of what was here before stay
        z |= {"first_CFHW": torch.randn(z["latents_CFHW"].shape, generator=first), "image_NC": torch.randn(5, 96, generator=first)}
        common = {"clip_key": f"clip{i}", "usable": True, "reason": None}
        latents.append(common | {"tensors": save(z | {"maskbits_KFHW": torch.full((8, 3, *size[i]), 255, dtype=torch.uint8)})})
        conditions.append(common | {"tensors": save(c)})
    write_shard(folder / "latents.parquet", latents, SCHEMAS["latents"])
    write_shard(folder / "conditions.parquet", conditions, SCHEMAS["conditions"])
    shards = folder / "latents.parquet", folder / "conditions.parquet"
    return [Place(f"clip{i}", *shards, i, (8 * width, 8 * height)) for i, (height, width) in enumerate(size)]


def run(folder: Path, job: dict[str, Any], clips: list[Place]) -> dict[str, Any]:
    recipe = recipe_by_name("nano", SETTINGS | {"stages.*.train.steps": job["steps"]} | job["overrides"])
    stage = recipe.stages[0]
    if "backbone" in job:
        architecture_name, expert = job["backbone"]
        backbone = BackboneSpec(architecture=architecture_name, weights="seed:10", expert=expert)
        stage = stage.model_copy(update={"backbone": backbone, "reference": stage.reference.model_copy(update={"vace_blocks": False})})
    dtype = torch.bfloat16 if stage.parallel.precision == "bfloat16" else torch.float32
    image = recipe.conditions.image_encoder.architecture
    teacher = build_teacher(
        stage.backbone, stage.reference, stage.lora, image, None, dtype, stage.train.seed, stage.train.trained, clip_encoder="nano-openclip"
    )
    at = job.get("resume_at", 3)
    resume = None if job["resume"] is None else Resume(at, folder / job["resume"] / f"step{at}")
    out = folder / job["name"]
    before = folder / job["optimizer_of"] / "step6" if "optimizer_of" in job else None
    if before is not None:
        load_trainable(teacher, load_file(before / "trained.safetensors"))
    clips, held_out = (clips[:3], clips[3:]) if "validate" in job else (clips, [])
    validation = Validation(held_out, stage.reference.injection) if job.get("validate") else None
    kept = before / "rank0.safetensors" if before else None
    return {
        "records": train(stage, teacher, clips, torch.zeros(1, TEXT), 32, Keep(out), out / "work", resume, validation=validation, kept_optimizer=kept)
    }


def main() -> None:
    torch.set_num_threads(1)
    usual_collections()
    folder, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
    clips = {False: places(folder), True: places(folder / "two sizes", portrait=(1, 3, 4))}
    wide = places(folder / "wide", channels=architecture("nano-ti2v").config["in_channels"])
    spoilt = places(folder / "spoilt", spoilt=(2,))
    for job in jobs:
        data = spoilt if job.get("spoilt") else wide if "nano-ti2v" in job.get("backbone", ()) else clips[job.get("buckets", False)]
        workers = [_forked(folder, job, data, rank) for rank in range(job.get("workers", 1))]
        for child in workers:
            os.waitpid(child, 0)


def _forked(folder: Path, job: dict[str, Any], clips: list[Place], rank: int) -> int:
    """A worker of the job in a process of its own; rank 0 writes what the job recorded, and the first worker that fails why."""
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)  # a fork leaves torch's pool of threads broken, and two threads at once would mend it
    try:
        if job.get("workers", 1) > 1:
            os.environ["LOCAL_RANK"] = str(rank)
            dist.init_process_group("gloo", init_method=f"file://{folder}/{job['name']}.rendezvous", rank=rank, world_size=job["workers"])
        result = run(folder, job, clips)
    except Exception:
        result = {"error": traceback.format_exc()}
    path = folder / f"{job['name']}.json"
    if (rank == 0 and "error" not in result) or ("error" in result and not path.exists()):
        path.write_text(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
