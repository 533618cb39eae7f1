"""A shuffled read of one cached row from a local shard, bit-exact, against what others do with the same tensors; and requests and bytes from S3.

    PYTHONPATH=. .venv/bin/python benchmarks/shard_read.py [--rounds 9] [--rows 60]

Rows as the real 480p layout has them: latents of 29 frames at 832 x 480 (16 x 8 x 60 x 104 in bfloat16, three times, and the mask), 5.2 MB.
The readers take turns in every round, each in an order of its own over all rows, files in the page cache, one thread; what is timed ends
with the tensors by name. Readers:

    ours               TensorRows: the row's bytes at their offset
    pyarrow            a row group of the same file by pyarrow, file open, to the same tensors
    pyarrow, zstd      the same rows as pyarrow writes them by default but zstd, file open
    torch.save         a file a row, torch.load(weights_only=True)
    webdataset         a tar of the same safetensors, through its pipeline in order (it has no read of one row); where it is installed

Prints a table: median over rounds of wall and CPU ms a row, and the ratio to ours.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save

from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.data.tensor_rows import TensorRows

Reader = Callable[[list[int]], Iterable[dict[str, torch.Tensor]]]


def tensors(i: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(i)
    names = ("latents_CFHW", "inactive_CFHW", "reactive_CFHW")
    z = {name: torch.randn(16, 8, 60, 104, generator=g).bfloat16() for name in names}
    return z | {"maskbits_KFHW": torch.randint(0, 256, (8, 8, 60, 104), generator=g, dtype=torch.uint8)}


def write(folder: Path, count: int) -> dict[str, Reader]:
    rows = [{"clip_key": f"clip{i:05d}", "usable": True, "reason": None, "tensors": save(tensors(i))} for i in range(count)]
    ours = folder / "ours.parquet"
    write_shard(ours, rows, SCHEMAS["latents"])
    plain = folder / "plain.parquet"
    with pq.ParquetWriter(plain, SCHEMAS["latents"], compression="zstd") as writer:
        for row in rows:
            writer.write_table(pa.Table.from_pylist([row], schema=SCHEMAS["latents"]), row_group_size=1)
    for i in range(count):
        torch.save(tensors(i), folder / f"{i}.pt")
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for row in rows:
            info = tarfile.TarInfo(f"{row['clip_key']}.safetensors")
            info.size = len(row["tensors"])
            tar.addfile(info, io.BytesIO(row["tensors"]))
    shard, open_ours, open_plain = TensorRows.open(ours), pq.ParquetFile(ours), pq.ParquetFile(plain)

    def by_pyarrow(file: pq.ParquetFile, i: int) -> dict[str, torch.Tensor]:
        return load(file.read_row_group(i, ["tensors"], use_threads=False).column(0)[0].as_buffer().to_pybytes())

    readers: dict[str, Reader] = {
        "ours": lambda order: map(shard.read, order),
        "pyarrow": lambda order: (by_pyarrow(open_ours, i) for i in order),
        "pyarrow, zstd": lambda order: (by_pyarrow(open_plain, i) for i in order),
        "torch.save": lambda order: (torch.load(folder / f"{i}.pt", weights_only=True) for i in order),
    }
    try:
        import webdataset
    except ImportError:
        print("webdataset is not installed; left out")
    else:
        pipeline = webdataset.WebDataset(str(folder / "shard.tar"), shardshuffle=False)
        readers["webdataset"] = lambda order: (load(sample["safetensors"]) for sample in pipeline)
    return readers


def check(readers: dict[str, Reader], count: int) -> None:
    """Bit-exact, every one."""
    for name, reader in readers.items():
        for i, got in zip(range(count), reader(list(range(count))), strict=True):
            wanted = tensors(i)
            assert set(got) == set(wanted) and all(torch.equal(got[k], wanted[k]) for k in wanted), (name, i)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=60)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        readers = write(Path(folder), asked.rows)
        check(readers, asked.rows)
        rng = random.Random(0)
        for _ in range(asked.rounds):
            for name, reader in rng.sample(sorted(readers.items()), len(readers)):
                order = rng.sample(range(asked.rows), asked.rows)
                started, started_cpu = time.perf_counter(), time.process_time()
                for _row in reader(order):
                    pass
                wall.setdefault(name, []).append((time.perf_counter() - started) / asked.rows * 1000)
                cpu.setdefault(name, []).append((time.process_time() - started_cpu) / asked.rows * 1000)
    _table(wall, cpu, sum(t.numel() * t.element_size() for t in tensors(0).values()))


def _table(wall: dict[str, list[float]], cpu: dict[str, list[float]], row_bytes: int) -> None:
    ours: Any = {kind: statistics.median(found["ours"]) for kind, found in (("wall", wall), ("cpu", cpu))}
    print(f"{row_bytes / 1e6:.2f} MB a row\n")
    print("| reader | wall ms a row | CPU ms a row | GB/s | wall, times ours | CPU, times ours |\n|---|---|---|---|---|---|")
    for name in wall:
        w, c = statistics.median(wall[name]), statistics.median(cpu[name])
        print(f"| {name} | {w:.3f} | {c:.3f} | {row_bytes / w / 1e6:.2f} | {w / ours['wall']:.2f} | {c / ours['cpu']:.2f} |")


if __name__ == "__main__":
    main()
