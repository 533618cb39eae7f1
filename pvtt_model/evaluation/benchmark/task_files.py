"""A task of the PVTT benchmark: its line of the JSON, and the frames, masks and pictures it is judged by.

Layout: videos/NAME.mp4, masks/NAME/*.png (product > 127), product_images/, the tasks' JSON in edit_prompt/ or anywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from pvtt_model.data.video_io import decode, probe
from pvtt_model.evaluation.frames import decode_masks, decode_reference

RGBA = "output_dino_rgba"  # cut-out product pictures, taken where they are there


class Task(NamedTuple):
    id: str
    video_name: str
    image_id: str
    source_prompt: str
    target_prompt: str
    save_dir: str


class TaskFrames(NamedTuple):
    """What one task is judged by, before any mode has touched it. Sizes and counts are the files' own."""

    generated_TCHW: torch.Tensor  # uint8
    source_TCHW: torch.Tensor  # uint8
    masks: tuple[torch.Tensor, ...]  # bool H,W each, in the order of their files; of the source
    reference_CHW: torch.Tensor | None  # uint8, three channels, or four with alpha
    collage_CHW: torch.Tensor | None  # uint8: the first-frame paradigm's input, product left, cleaned frame right
    generated_fps: float
    source_fps: float


def read_tasks(path: Path) -> list[Task]:
    """The tasks in the file's order. Raises ValueError for a file that is no list of tasks, or a task without id, video or target prompt."""
    lines = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError(f"{path} is no JSON list of objects. Give the benchmark's task file.")
    tasks = []
    for number, line in enumerate(lines, 1):
        missing = [field for field in ("id", "video_name", "target_prompt") if not line.get(field)]
        if missing:
            raise ValueError(f"{path}: task {number} has no {', '.join(missing)}.")
        name = str(line["id"])
        image, source = str(line.get("inference_image_id") or ""), str(line.get("source_prompt") or "")
        tasks.append(Task(name, str(line["video_name"]), image, source, str(line["target_prompt"]), str(line.get("save_dir") or name)))
    return tasks


def category_of(task_id: str) -> str:
    """The product's kind in a task's id: 'bracelet' of '0016-bracelet1_to_bracelet3'; 'unknown' where there is none."""
    named = task_id.partition("-")[2] or task_id
    kind = ""
    for letter in named:
        if letter.isdigit():
            break
        kind += letter
    return kind.rstrip("_") or "unknown"


def read_frames(root: Path, task: Task, video: Path, collage: Path | None = None) -> TaskFrames:
    """The task's files. Raises FileNotFoundError naming the first that is not there; a product picture or masks may be absent."""
    source = root / "videos" / (task.video_name if task.video_name.endswith(".mp4") else f"{task.video_name}.mp4")
    for path in (video, source):
        if not path.is_file():
            raise FileNotFoundError(f"task {task.id}: there is no video at {path}.")
    folder = root / "masks" / Path(task.video_name).stem
    files = sorted([*folder.glob("*.png"), *folder.glob("*.jpg")]) if folder.is_dir() else []
    masks = tuple(decode_masks([path.read_bytes()])[0] for path in files)
    cut_out, plain = root / "product_images" / RGBA / f"{Path(task.image_id).stem}.png", root / "product_images" / task.image_id
    picture = next((path for path in (cut_out, plain) if task.image_id and path.is_file()), None)
    return TaskFrames(
        generated_TCHW=decode(video),
        source_TCHW=decode(source),
        masks=masks,
        reference_CHW=decode_reference(picture.read_bytes()) if picture else None,
        collage_CHW=decode_reference(collage.read_bytes())[:3] if collage and collage.is_file() else None,
        generated_fps=probe(video).fps,
        source_fps=probe(source).fps,
    )
