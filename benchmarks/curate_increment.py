"""Curating 10 clips more, after N, against curating 10 clips from nothing: is the cost of new data flat in N?

    PYTHONPATH=. .venv/bin/python benchmarks/curate_increment.py [--sizes 100 1000 10000] [--rounds 9]

The flow `curate` as it is (clips, masks, latents, conditions, data card), on a temporary Prefect server, a local Ray and a local store, on nano
clips without context variants. Ray is up and its workers have loaded their models before anything is timed. For each N a store is
filled with N clips; then, `rounds` times, 10 lines are put in front of the manifest, and in turn 10 other clips are curated into an
empty store. No base is named: what is there is found by content.

Prints a table: median wall seconds of the five tasks, and CPU seconds of the flow's process and the children it waits for, of both; the
difference of the walls, whose bar is 2 s; the peak resident memory of the flow's process; and what filling the store took, in clips a second.
Of the flow, the tasks are timed: a run ends on a second's beat of Prefect's own, which would be the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

NEW = 10


def measured(folder: Path, sizes: list[int], rounds: int) -> None:
    from prefect.testing.utilities import prefect_test_harness

    import flows.curriculum as curriculum
    from benchmarks.curation_workers import time_tasks
    from flows.curate import curate
    from pvtt_model.nano.world import write_world
    from pvtt_model.specs import NanoWorldSpec

    extra = NEW * rounds
    world = NanoWorldSpec(num_clips=max(sizes) + extra + NEW * (rounds * len(sizes) + 1), num_eval=NEW, look_alikes=5)
    started = time.perf_counter()
    write_world(world, folder / "world")
    print(f"rendered {world.num_clips} clips in {time.perf_counter() - started:.0f} s", flush=True)
    lines = (folder / "world" / "manifest.jsonl").read_text().splitlines()
    train, held_out = lines[: world.num_clips], lines[world.num_clips :]
    alone = iter(range(max(sizes) + extra, world.num_clips, NEW))

    seconds: dict[str, float] = defaultdict(float)
    time_tasks(curriculum, seconds)

    def run(store: str, chosen: list[str]) -> tuple[float, float]:
        manifest = folder / "world" / f"{store.partition('-')[0]}.jsonl"  # a manifest that grows in its place, as people's do
        manifest.write_text("".join(line + "\n" for line in chosen))
        overrides: dict[str, Any] = {"latents.variants": 1}
        seconds.clear()
        cpu = sum(os.times()[:4])
        curate(recipe="nano", clips=str(manifest), overrides=overrides, store=str(folder / store))
        return sum(seconds.values()), sum(os.times()[:4]) - cpu

    def ten(i: int) -> list[str]:
        return [*train[i : i + NEW], *held_out[:2]]

    rows = []
    with prefect_test_harness():
        for turn in range(2):
            run(f"warm{turn}", ten(next(alone)) if turn == 0 else held_out)
        for n in sizes:
            filled, _ = run(f"store{n}", [*train[:n], *held_out[:2]])
            new: list[tuple[float, float]] = []
            from_nothing: list[tuple[float, float]] = []
            chosen = [*train[:n], *held_out[:2]]
            for i in range(rounds):
                chosen = [*train[max(sizes) + i * NEW : max(sizes) + (i + 1) * NEW], *chosen]
                new.append(run(f"store{n}", chosen))
                from_nothing.append(run(f"alone{n}-{i}", ten(next(alone))))
            rows.append((n, filled, new, from_nothing, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
            print(json.dumps(rows[-1]), flush=True)
    print("\n| N | N + 10: tasks s | CPU s | 10 from nothing: tasks s | CPU s | more: tasks s | peak MiB | filling, clips/s |\n|" + "---|" * 8)
    for n, filled, new, from_nothing, peak in rows:
        (a, b), (c, d) = ([statistics.median(column) for column in zip(*found, strict=True)] for found in (new, from_nothing))
        print(f"| {n:,} | {a:.2f} | {b:.2f} | {c:.2f} | {d:.2f} | {a - c:+.2f} | {peak:.0f} | {n / filled:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PVTT_HOME"] = str(Path(folder) / "home")
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
        measured(Path(folder), asked.sizes, asked.rounds)


if __name__ == "__main__":
    main()
