"""Which GPU this torch has kernels for, and whether a device computes."""

from __future__ import annotations

import pytest
import torch

import pvtt_model.preflight.device as device
from pvtt_model.preflight.device import computes, gpu_checks, gpu_present, gpus_check, kernels_check
from pvtt_model.preflight.stage import device_checks
from pvtt_model.specs import ParallelSpec

BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_90a"]


@pytest.mark.parametrize(
    ("capability", "built", "status", "by"),
    [
        ((8, 0), BUILT, "ok", "sm_80"),
        ((8, 9), BUILT, "ok", "sm_80"),  # binaries run on later minors of their major
        ((9, 0), BUILT, "ok", "sm_90"),
        ((7, 0), BUILT, "fail", None),
        ((12, 0), BUILT, "fail", None),  # the "no kernel image" of a new GPU
        ((10, 0), ["sm_90a", "sm_100"], "ok", "sm_100"),
        ((9, 1), ["sm_90a"], "fail", None),  # architecture-specific code runs on its own alone
        ((12, 0), [*BUILT, "compute_90"], "ok", "compute_90"),  # PTX is compiled for what came later
        ((8, 0), ["compute_90"], "fail", None),
        ((8, 0), [], "fail", None),
    ],
)
def test_kernels(capability, built, status, by):
    found = kernels_check("a GPU", capability, built)
    assert found.status == status and (by is None or found.got == by)
    assert status == "ok" or ("no kernel image" in found.got and found.cure)


def test_no_gpu_says_why(tmp_path):
    assert gpu_present(False, "12.8", tmp_path / "none").got == "no GPU and no driver"
    assert "without CUDA" in gpu_present(False, None, tmp_path / "none").got
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 2021\n")
    old = gpu_present(False, "12.8", tmp_path / "version")
    assert "driver 470.82.01" in old.got and "Update the driver" in old.cure


def test_a_gpu_a_worker():
    assert gpus_check(8, 8).status == "ok"
    assert gpus_check(1, 8).status == "fail" and "num_workers=1" in gpus_check(1, 8).cure


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_this_cpu_computes(precision):
    (found,) = device_checks(ParallelSpec(accelerator="cpu", precision=precision))
    assert found.status == "ok", found


def test_a_device_that_computes_wrongly_or_not_at_all(monkeypatch):
    right = device._work
    monkeypatch.setattr(device, "_work", lambda x, w: tuple(t + 0.1 * (x.dtype != torch.float64) for t in right(x, w)))
    assert "more than rounding" in computes(torch.device("cpu"), "bfloat16").got
    monkeypatch.setattr(device, "_work", lambda x, w: tuple(t * float("nan") for t in right(x, w)))
    assert computes(torch.device("cpu"), "float32").status == "fail"
    if not torch.cuda.is_available():
        assert computes(torch.device("cuda"), "float32").status == "fail"
        assert [c.status for c in gpu_checks(0, "bfloat16")] == ["fail"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_this_gpu_computes():
    assert [c.status for c in gpu_checks(0, "bfloat16")] == ["ok", "ok", "ok"]
