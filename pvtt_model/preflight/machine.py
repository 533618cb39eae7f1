"""What this machine has: cores, memory, instructions, shared memory; inside a container what the container may use. Linux; no torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

PROC, CGROUP, SHM = Path("/proc"), Path("/sys/fs/cgroup"), Path("/dev/shm")


class HostMemory(NamedTuple):
    """Bytes. total: what processes here may use at most; available: what is free of it or can be freed at once."""

    total: int
    available: int


def host_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> HostMemory:
    """The machine's, or the container's limit where that is lower. A container's file cache counts as available."""
    kib = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        kib[name] = int(rest.split()[0])
    total, available = kib["MemTotal"] * 1024, kib.get("MemAvailable", kib["MemFree"]) * 1024
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        most, now = _number(cgroup / limit), _number(cgroup / used)
        if most is not None and now is not None and most < total:
            cached = _stat(cgroup / limit.replace(limit.rpartition("/")[2], "memory.stat"), ("inactive_file", "total_inactive_file"))
            return HostMemory(most, max(0, min(available, most - now + cached)))
    return HostMemory(total, available)


def cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: those it may be scheduled on, or a container's quota where that is lower (at least 1)."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, int(quota) // int(period)))


def instructions(proc: Path = PROC) -> frozenset[str]:
    """The processor's flags, as the kernel names them ('avx2', 'avx512_bf16'; on ARM 'bf16'). Empty where it does not say."""
    try:
        lines = (proc / "cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.partition(":")[0].strip() in ("flags", "Features")), "")
    return frozenset(found.partition(":")[2].split())


def shared_memory_bytes(folder: Path = SHM) -> int | None:
    """The size of /dev/shm; None where there is none."""
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def network_interfaces() -> frozenset[str]:
    try:
        return frozenset(p.name for p in Path("/sys/class/net").iterdir())
    except OSError:
        return frozenset()


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _stat(path: Path, names: tuple[str, ...]) -> int:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(line[1]) for line in lines if line[0] in names), 0)
