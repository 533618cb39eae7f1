"""The CPU side: instructions, threads against cores, shared memory. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pvtt_model.preflight.check import Check, Status
from pvtt_model.specs import ParallelSpec

GIB = 2**30
BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def instructions_check(flags: frozenset[str], parallel: ParallelSpec) -> Check:
    """Whether the kernels a CPU training wants run on this processor: AVX2, and bfloat16 in hardware where the stage asks for it."""
    what = f"a CPU for {parallel.precision}"
    if not flags:
        return Check("cpu", "skipped", what, "the kernel does not say which instructions there are")
    has = [name for name in ("avx2", "avx512f", *BF16) if name in flags]
    if parallel.precision == "bfloat16" and not any(name in flags for name in BF16):
        cure = "Set parallel.precision=float32: without the instructions torch emulates bfloat16, slower than float32."
        return Check("cpu", "warn", what, f"{', '.join(has) or 'neither AVX2 nor bfloat16'}; no {' or '.join(BF16[:2])}", cure)
    if not {"avx2", "asimd"} & flags:
        return Check("cpu", "warn", what, "no AVX2", "Expect several times the time, or use another machine.")
    return Check("cpu", "ok", what, ", ".join(has) or "asimd")


def threads_check(cores: int, workers: int, threads_each: int, environment: Mapping[str, str] = os.environ) -> Check:
    """Workers times threads against cores. Two processes of two spinning threads on two cores slowed each other about 30-fold here."""
    what = f"{workers} workers on {cores} cores"
    got = f"{threads_each} thread{'s' * (threads_each != 1)} each, OMP_WAIT_POLICY={environment.get('OMP_WAIT_POLICY', 'unset')}"
    if workers * threads_each <= cores:
        return Check("threads", "ok", what, got)
    fewer = max(1, cores // workers)
    cure = f"Set OMP_NUM_THREADS={fewer} and OMP_WAIT_POLICY=PASSIVE" + (f", or parallel.num_workers={cores}." if workers > cores else ".")
    status: Status = "fail" if environment.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE" else "warn"
    return Check("threads", status, what, got, cure)


def shared_memory_check(size: int | None) -> Check:
    """/dev/shm for Ray's objects and NCCL's rings on one machine. A container's default of 64 MiB is too little for either."""
    what = "a /dev/shm of 1 GiB or more, for Ray's objects and NCCL"
    if size is None:
        return Check("shared memory", "warn", what, "no /dev/shm", "Mount one: Ray falls back on files in /tmp, and NCCL fails between GPUs.")
    if size < GIB:
        return Check("shared memory", "warn", what, f"{size / GIB:.2f} GiB", "Start the container with --shm-size=1g or more.")
    return Check("shared memory", "ok", what, f"{size / GIB:.2f} GiB")
