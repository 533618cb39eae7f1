"""Peak memory of FVD over N videos: moments as they stream, against all videos in memory. Bar: 0.1x at 256, the same to 1e-3, flat in N.

    PYTHONPATH=. .venv/bin/python benchmarks/fvd_memory.py [--counts 64 256] [--frames 16] [--side 128]

Videos are noise with a drift, made from their number when they are asked for; the network is the shipped nano-video. Each way runs in a process
of its own, and its peak is the growth of the highest resident size over what stood after one video had been measured (libraries, weights and the
network's own scratch memory). Prints a table, and fails below the bar.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from pvtt_model.backbones.video import load_video_features
from pvtt_model.evaluation.frechet import Moments, distance_of
from pvtt_model.evaluation.fvd import video_features, video_moments
from pvtt_model.nano.shipped import FOLDER, shipped
from pvtt_model.specs import ModelSpec


def made(count: int, frames: int, side: int, seed: int) -> Iterator[torch.Tensor]:
    for number in range(count):
        generator = torch.Generator().manual_seed(seed * 100_003 + number)
        base = torch.randint(0, 200, (1, 3, side, side), generator=generator, dtype=torch.uint8)
        yield torch.cat([base.roll(t, 3) + seed * t for t in range(frames)])


def measure(way: str, count: int, frames: int, side: int) -> dict[str, float]:
    torch.set_num_threads(1)
    network = load_video_features(shipped("video", ModelSpec), FOLDER / "video")
    for video in made(2, frames, side, 9):
        video_features(network, video)
    before, started = peak_mb(), time.perf_counter()
    if way == "streamed":
        value = distance_of(*(video_moments(network, made(count, frames, side, seed)) for seed in (0, 1)))
    else:
        sets = [list(made(count, frames, side, seed)) for seed in (0, 1)]
        features = [np.concatenate([video_features(network, video).numpy() for video in videos]) for videos in sets]
        value = distance_of(*(Moments(network.width).add(f) for f in features))
    return {"value": value, "mb": peak_mb() - before, "s": time.perf_counter() - started}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--way", choices=("streamed", "in memory"), help="what one process measures")
    args = parser.parse_args()
    if args.way:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(args.way, args.counts[0], args.frames, args.side)))
        return
    print("| videos | way | FVD | peak over the start, MB | s |\n|---|---|---|---|---|")
    found: dict[tuple[int, str], dict[str, float]] = {}
    for count in args.counts:
        for way in ("streamed", "in memory"):
            command = [sys.executable, __file__, "--way", way, "--counts", str(count), "--frames", str(args.frames), "--side", str(args.side)]
            found[count, way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            line = found[count, way]
            print(f"| {count} | {way} | {line['value']:.6f} | {line['mb']:.1f} | {line['s']:.1f} |", flush=True)
    most = max(args.counts)
    streamed, whole = found[most, "streamed"], found[most, "in memory"]
    share, apart = streamed["mb"] / whole["mb"], abs(streamed["value"] / whole["value"] - 1)
    print(f"\nat {most} videos: {share:.3f}x the memory (bar 0.1), value {apart:.1e} apart (bar 1e-3)")
    sys.exit(share > 0.1 or apart > 1e-3)


if __name__ == "__main__":
    main()
