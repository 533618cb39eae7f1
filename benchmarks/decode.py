"""Decoding 81 frames of 480p, bit-exact: ours against decord with one thread in the same process, and PyAV.

    PYTHONPATH=. .venv/bin/python benchmarks/decode.py VIDEO [VIDEO ...] [--rounds 9]

    ours      video_io.decode: in a process that can be killed, with a time limit; the frames in memory that both see
    decord    VideoReader(num_threads=1).get_batch, in this process: what most trainers do; a broken file can hang or crash it
    PyAV      one thread, frame.to_ndarray("rgb24"), in this process
    H.264     PyAV's decoding alone, no picture converted
    to RGB    its frames converted alone, by libswscale

Prints a table: median over rounds of wall, and of the CPU of all processes; and the ratio of decord's wall to each.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import av
import decord
import numpy as np
import psutil
import torch

from pvtt_model.data.decoder import DECODER
from pvtt_model.data.video_io import decode

FRAMES = 81


def by_decord(path: str) -> np.ndarray:
    return np.asarray(decord.VideoReader(path, num_threads=1).get_batch(range(FRAMES)).asnumpy())


def ours(path: str) -> np.ndarray:
    return decode(path, FRAMES).permute(0, 2, 3, 1).numpy()


def frames_of(path: str) -> list[av.VideoFrame]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return [frame for frame, _ in zip(container.decode(stream), range(FRAMES), strict=False)]


def by_pyav(path: str) -> np.ndarray:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        size = (FRAMES, stream.codec_context.height, stream.codec_context.width, 3)
        out = np.empty(size, np.uint8)
        for i, frame in zip(range(FRAMES), container.decode(stream), strict=False):
            out[i] = frame.to_ndarray(format="rgb24")
        return out


def cpu_s() -> float:
    mine = os.times()
    child = psutil.Process(DECODER.child_pid).cpu_times() if DECODER.child_pid else None
    return mine.user + mine.system + (child.user + child.system if child else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(0)
    for path in asked.videos:
        wanted = by_decord(path)
        for reader in (ours, by_pyav):
            assert np.array_equal(reader(path), wanted), f"{reader.__name__} is not bit-exact on {path}"
        kept = frames_of(path)
        readers: dict[str, Callable[[], object]] = {
            "ours": lambda path=path: ours(path),
            "decord": lambda path=path: by_decord(path),
            "PyAV": lambda path=path: by_pyav(path),
            "H.264": lambda path=path: frames_of(path),
            "to RGB": lambda kept=kept: [frame.to_ndarray(format="rgb24") for frame in kept],
        }
        wall: dict[str, list[float]] = {name: [] for name in readers}
        cpu: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(asked.rounds):
            for name in rng.sample(sorted(readers), len(readers)):
                began, began_cpu = time.perf_counter(), cpu_s()
                readers[name]()
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(cpu_s() - began_cpu)
        base = statistics.median(wall["decord"])
        print(f"\n{Path(path).name}: {wanted.shape[1]} x {wanted.shape[2]}\n\n| reader | wall ms | CPU ms | decord's wall / its |\n|---|---|---|---|")
        for name in readers:
            w = statistics.median(wall[name])
            print(f"| {name} | {1000 * w:.0f} | {1000 * statistics.median(cpu[name]):.0f} | {base / w:.2f} |")


if __name__ == "__main__":
    main()
