"""Judge a folder of edits by the PVTT benchmark's protocol, as published (compat) and with its faults put right (fixed).

    python -m pvtt_model.evaluation.benchmark --root DATASET --tasks DATASET/edit_prompt/easy_new.json --generated EDITS --out TABLES \
        --clip openclip-vit-b32=WEIGHTS --dino dinov2-vit-b14=WEIGHTS --lpips lpips-alex=WEIGHTS [--sha256-lpips HEX] [--modes compat,fixed]

An edit lies at EDITS/SAVE_DIR/NAME (--video, default composited.mp4) or EDITS/ID.mp4. Writes TABLES/MODE.csv and TABLES/MODE.json. A task without
an edit stands in the table with the reason. Weights are local paths here; the shipped nano ones are nano:NAME.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from pvtt_model.backbones.clip import load_clip
from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.perceptual import load_perceptual
from pvtt_model.evaluation.benchmark.align import SKIP
from pvtt_model.evaluation.benchmark.columns import Mode
from pvtt_model.evaluation.benchmark.embeddings import Networks
from pvtt_model.evaluation.benchmark.table import judge_tasks, write_csv, write_summary
from pvtt_model.evaluation.benchmark.task_files import Task, TaskFrames, read_frames, read_tasks
from pvtt_model.nano.shipped import shipped, shipped_folder
from pvtt_model.specs import ModelSpec


def main() -> None:
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    lpips = load_perceptual(*_model(args.lpips, args.sha256_lpips)) if args.lpips else None
    networks = Networks(load_clip(*_model(args.clip)), load_image_encoder(*_model(args.dino)), lpips)
    tasks, modes = read_tasks(args.tasks), args.modes.split(",")
    if unknown := set(modes) - set(get_args(Mode)):
        raise SystemExit(f"--modes {sorted(unknown)}: valid are {', '.join(get_args(Mode))}.")

    def read(task: Task) -> TaskFrames:
        folder = args.generated / task.save_dir
        video = folder / args.video
        return read_frames(args.root, task, video if video.is_file() else args.generated / f"{task.id}.mp4", folder / args.collage)

    judged = []
    for one in judge_tasks(tasks, read, networks, modes, skip=args.skip):
        judged.append(one)
        print(f"{len(judged)}/{len(tasks) * len(modes)} {one.task.id} {one.mode}: {'judged' if one.row else one.reason}", flush=True)
    for mode in modes:
        write_csv(judged, mode, networks, args.out / f"{mode}.csv")
        write_summary(judged, mode, networks, args.out / f"{mode}.json")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pvtt_model.evaluation.benchmark", description=__doc__)
    for name in ("root", "tasks", "generated", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--clip", required=True)
    parser.add_argument("--dino", required=True)
    parser.add_argument("--lpips")
    parser.add_argument("--sha256-lpips")
    parser.add_argument("--modes", default="compat,fixed")
    parser.add_argument("--skip", type=int, default=SKIP, help="generated frames to drop: 4 of the first-frame paradigm, 0 of an edit in place")
    parser.add_argument("--video", default="composited.mp4")
    parser.add_argument("--collage", default="ffgo_original_ref_frame.jpg")
    return parser.parse_args()


def _model(said: str, sha256: str | None = None) -> tuple[ModelSpec, Path]:
    """ARCHITECTURE=PATH or nano:NAME, as spec and folder."""
    if said.startswith("nano:"):
        return shipped(said.removeprefix("nano:"), ModelSpec), shipped_folder(said)
    name, _, path = said.partition("=")
    return ModelSpec(architecture=name, weights=path, sha256=sha256), Path(path)


if __name__ == "__main__":
    main()
