"""The device that computes: there, of an architecture that this torch was built for, and really computing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pvtt_model.preflight.check import Check

GIB = 2**30
SIDE, HEADS, TOKENS = 64, 2, 48
#: Largest difference from float64 that rounding explains, for values near 1.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
DRIVER = Path("/proc/driver/nvidia/version")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def gpu_checks(index: int, precision: str) -> list[Check]:
    """That torch sees the GPU, has kernels for it, and computes on it. Stops at the first that fails."""
    present = gpu_present(torch.cuda.is_available(), torch.version.cuda, DRIVER)
    if present.status == "fail":
        return [present]
    kernels = kernels_check(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index), torch.cuda.get_arch_list())
    if kernels.status == "fail":
        return [present, kernels]
    return [present, kernels, computes(torch.device("cuda", index), precision)]


def gpu_present(available: bool, built_for: str | None, driver: Path) -> Check:
    what = f"a CUDA GPU for torch {torch.__version__} (CUDA {built_for})"
    has_driver = _driver(driver)
    if available:
        free, total = torch.cuda.mem_get_info(0)
        found = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free on the first"
        return Check("gpu", "ok", what, f"{found}, driver {has_driver or 'unknown'}")
    cure = "Run on a machine with one, set RAY_ADDRESS to a cluster, or take a recipe with parallel.accelerator=cpu (nano)."
    if built_for is None:
        return Check("gpu", "fail", what, "a torch that was built without CUDA", "Install the ordinary build: make install.")
    if has_driver:
        old = f"driver {has_driver}, with which torch finds no GPU"
        return Check("gpu", "fail", what, old, f"Update the driver to one for CUDA {built_for}, or look at CUDA_VISIBLE_DEVICES.")
    return Check("gpu", "fail", what, "no GPU and no driver", cure)


def gpus_check(count: int, workers: int) -> Check:
    """A GPU for each worker, where all are on this machine."""
    what, got = f"a GPU for each of {workers} workers", f"{count} here"
    if count >= workers:
        return Check("gpus", "ok", what, got)
    return Check("gpus", "fail", what, got, f"Set parallel.num_workers={max(1, count)} (and grad_accum higher), or RAY_ADDRESS to a cluster.")


def _driver(path: Path) -> str | None:
    """The NVIDIA kernel module's version, where it is loaded."""
    try:
        found = re.search(r"\b(\d{3,}\.\d+(\.\d+)?)\b", path.read_text())
    except OSError:
        return None
    return found.group(1) if found else "of unknown version"


def kernels_check(name: str, capability: tuple[int, int], built_for: Sequence[str]) -> Check:
    """Whether torch's binaries run on a GPU of that compute capability, else the first kernel fails: 'no kernel image is available'.

    A binary sm_XY runs on X.Z with Z >= Y; PTX compute_XY is compiled for any capability from X.Y on. (CUDA C++ Programming Guide, 'Application
    Compatibility'; the a and f variants run on just their own.) built_for: torch.cuda.get_arch_list().
    """
    major, minor = capability
    what = f"kernels for {name}, compute capability {major}.{minor}"
    for arch in built_for:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if found is None:
            continue
        kind, at = found.group(1), (int(found.group(2)), int(found.group(3)))
        if (kind == "sm" and at[0] == major and at[1] <= minor and (not found.group(4) or at == capability)) or (
            kind == "compute" and not found.group(4) and at <= capability
        ):
            return Check("gpu kernels", "ok", what, arch)
    cure = "Install a torch built for it: newer for a new GPU, older for an old one (https://pytorch.org/get-started)."
    return Check("gpu kernels", "fail", what, f"a torch built for {', '.join(built_for) or 'none'}: 'no kernel image is available'", cure)


def computes(device: torch.device, precision: str) -> Check:
    """A matrix product and an attention, forward and backward, at the stage's precision, against float64 on the CPU."""
    dtype = DTYPES[precision]
    what = f"matrix product and attention on {device} in {precision}"
    try:
        wrong = _difference(device, dtype)
    except (RuntimeError, NotImplementedError) as error:
        cure = "Torch, its CUDA libraries and the driver do not fit each other, or the device is broken or full: nvidia-smi says which."
        return Check("computes", "fail", what, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}", cure)
    if not wrong <= TOLERANCE[dtype]:
        return Check("computes", "fail", what, f"off by {wrong:.3g}, more than rounding ({TOLERANCE[dtype]:g})", "Do not train on this device.")
    return Check("computes", "ok", what, f"within {wrong:.1e} of float64")


def _difference(device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference of value and gradient, over the largest value."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, HEADS, TOKENS, SIDE, generator=generator).to(dtype)
    w = (torch.randn(SIDE, SIDE, generator=generator) / SIDE**0.5).to(dtype)
    right, got = _work(x.double(), w.double()), _work(x.to(device), w.to(device))
    return max(float((a - b.double().cpu()).abs().max() / a.abs().max()) for a, b in zip(right, got, strict=True))


def _work(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    w = w.clone().requires_grad_(True)
    y = scaled_dot_product_attention(x @ w, x, x)
    y.sum().backward()
    assert w.grad is not None
    return y.detach(), w.grad


def free_gpu_bytes(index: int) -> int:
    return int(torch.cuda.mem_get_info(index)[0])
