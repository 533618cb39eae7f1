"""Curation with two workers against one; and how much memory it takes as the clips grow in number.

    PYTHONPATH=. .venv/bin/python benchmarks/curation_workers.py [--clips 256] [--rounds 9] [--pin] [--memory 100 1000 4000]

The flow `curate` as it is, on a temporary Prefect server, a local Ray and a local store, on nano clips in shards of 16. Each number of
workers has a process of its own, whose Ray has as many cores, and whose workers have loaded their models before anything is timed; the two take
turns, each round on clips of its own into an empty store. Then, in one more process with two workers, the peak resident memory of the
flow's process and of the largest worker, sampled every 0.1 s, for each number of clips.

A worker is Ray's core, not the machine's: beside it work its decoder, Prefect's server and the flow itself, and with one worker on two cores they
have a core to themselves. --pin gives each side as many cores as it has workers, for all of its processes: what twice the cores give.

Prints medians over the rounds of clips a second, for the whole flow and by step, and their ratio; bar: 1.7. Then the memory; bar: flat.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

STEPS = ("ingest", "extract", "encode", "embed", "describe")


def serve(folder: Path) -> None:
    """Reads lines of JSON {manifest, store} on stdin, curates each, answers with seconds by step and peak memory, MiB."""
    import psutil

    cores = int(os.environ.get("CORES", 0))
    if cores:  # before any process is started: they inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from prefect.testing.utilities import prefect_test_harness

    import flows.curriculum as curriculum
    from flows.curate import curate

    seconds: dict[str, float] = defaultdict(float)
    time_tasks(curriculum, seconds)
    peaks = {"flow": 0.0, "worker": 0.0}
    me = psutil.Process()

    def watch() -> None:
        while True:
            peaks["flow"] = max(peaks["flow"], me.memory_info().rss / 2**20)
            for child in me.children(recursive=True):
                try:
                    if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::") and "Agent" not in child.cmdline()[0]:
                        peaks["worker"] = max(peaks["worker"], child.memory_info().rss / 2**20)
                except psutil.Error:
                    continue
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()
    with prefect_test_harness():
        for line in sys.stdin:
            asked = json.loads(line)
            seconds.clear()
            peaks.update(flow=0.0, worker=0.0)
            overrides: dict[str, Any] = {"clips.clips_per_shard": 16}
            began = time.perf_counter()
            curate(recipe="nano", clips=asked["manifest"], overrides=overrides, store=asked["store"])
            answer = {"whole": time.perf_counter() - began, **seconds, "peaks": dict(peaks)}
            print("ANSWER " + json.dumps(answer), flush=True)


def time_tasks(curriculum: Any, seconds: dict[str, float]) -> None:
    """From here on the wall seconds of each curation task that module `curriculum` calls are added up under its verb."""
    for name in ("ingest_clips", "extract_masks", "encode_latents", "embed_conditions", "describe_data"):
        setattr(curriculum, name, timed(getattr(curriculum, name), name.split("_")[0], seconds))


def timed(task: Any, name: str, seconds: dict[str, float]) -> Any:
    def run(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return task(*given, **named)
        finally:
            seconds[name] += time.perf_counter() - began

    return run


class Side:
    """A process that curates with so many workers, on so many cores where it is pinned."""

    def __init__(self, folder: Path, workers: int, pin: bool) -> None:
        self.folder = folder / f"with{workers}"
        self.folder.mkdir()
        env = os.environ | {"PVTT_NUM_CPUS": str(workers), "PVTT_HOME": str(self.folder / "home"), "PREFECT_LOGGING_LEVEL": "ERROR"}
        env |= {"CORES": str(workers)} if pin else {}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(self.folder)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def curate(self, manifest: Path, store: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"manifest": str(manifest), "store": str(self.folder / store)}) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                return dict(json.loads(line.removeprefix("ANSWER ")))
        raise RuntimeError("the process that curates ended")

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pin", action="store_true")
    parser.add_argument("--memory", type=int, nargs="*", default=[100, 1000, 4000])
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        return serve(asked.serve)
    from pvtt_model.nano.world import write_world
    from pvtt_model.specs import NanoWorldSpec

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = NanoWorldSpec(num_clips=max([asked.clips * asked.rounds + 32, *asked.memory]), num_eval=2, look_alikes=2)
        write_world(world, folder / "world")
        lines = (folder / "world" / "manifest.jsonl").read_text().splitlines()

        def manifest(start: int, count: int) -> Path:
            path = folder / "world" / f"from{start}-{count}.jsonl"
            path.write_text("\n".join([*lines[start : start + count], *lines[-2:]]) + "\n")
            return path

        sides = {workers: Side(folder, workers, asked.pin) for workers in (1, 2)}
        for side in sides.values():
            side.curate(manifest(world.num_clips - 32, 32), "warm")
        found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
        for i in range(asked.rounds):
            for workers in (1, 2) if i % 2 else (2, 1):
                found[workers].append(sides[workers].curate(manifest(i * asked.clips, asked.clips), f"store{i}"))
                print(workers, json.dumps(found[workers][-1]), flush=True)
        sides[1].end()
        print(
            f"\n{asked.clips} clips, median of {asked.rounds} rounds\n\n| step | 1 worker, clips/s | 2 workers, clips/s | ratio |\n|---|---|---|---|"
        )
        for step in ("whole", *STEPS):
            one, two = (statistics.median(asked.clips / answer[step] for answer in found[workers]) for workers in (1, 2))
            print(f"| {step} | {one:.1f} | {two:.1f} | {two / one:.2f} |")
        if asked.memory:
            print("\n| clips | flow's process, peak MiB | largest worker, peak MiB |\n|---|---|---|")
        for count in asked.memory:
            peaks = sides[2].curate(manifest(0, count), f"memory{count}")["peaks"]
            print(f"| {count:,} | {peaks['flow']:.0f} | {peaks['worker']:.0f} |", flush=True)
        sides[2].end()


if __name__ == "__main__":
    main()
