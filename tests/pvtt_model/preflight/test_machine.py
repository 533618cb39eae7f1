"""What a machine has and how it is judged: no torch is loaded for these."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from pvtt_model.preflight.check import Check, PreflightFailed, as_lines, refuse
from pvtt_model.preflight.machine import cores, host_memory, instructions
from pvtt_model.preflight.processor import instructions_check, shared_memory_check, threads_check
from pvtt_model.preflight.software import KNOWN_GOOD, in_range, software_checks
from pvtt_model.specs import ParallelSpec

REPOSITORY = Path(__file__).resolve().parents[3]
GIB = 2**30


def test_memory_of_a_container_is_its_limit_and_its_file_cache_is_free(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 33554432 kB\nMemFree: 1024 kB\nMemAvailable: 16777216 kB\n")
    assert host_memory(tmp_path, tmp_path) == (32 * GIB, 16 * GIB)
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{5 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {2 * GIB}\n")
    assert host_memory(tmp_path, tmp_path) == (8 * GIB, 5 * GIB)
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory(tmp_path, tmp_path) == (32 * GIB, 16 * GIB)


def test_cores_of_a_container_are_its_quota(tmp_path):
    everything = cores(tmp_path / "none")
    for text, count in (("max 100000", everything), ("100000 100000", 1), ("50000 100000", 1), (f"{everything * 200000} 100000", everything)):
        (tmp_path / "cpu.max").write_text(text)
        assert cores(tmp_path) == count, text


def test_bfloat16_without_the_instructions_is_warned_of(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 fma\nprocessor : 1\n")
    flags = instructions(tmp_path)
    assert flags == {"fpu", "avx2", "fma"}
    assert instructions_check(flags, ParallelSpec(precision="float32")).status == "ok"
    assert instructions_check(flags, ParallelSpec(precision="bfloat16")).status == "warn"
    assert instructions_check(flags | {"amx_bf16"}, ParallelSpec(precision="bfloat16")).status == "ok"
    assert instructions_check(frozenset({"fpu"}), ParallelSpec(precision="float32")).status == "warn"
    assert instructions_check(frozenset(), ParallelSpec()).status == "skipped"


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "policy", "status", "cure"),
    [
        (2, 2, 1, "PASSIVE", "ok", ""),
        (2, 2, 2, "PASSIVE", "warn", "OMP_NUM_THREADS=1"),
        (2, 2, 2, "ACTIVE", "fail", "OMP_NUM_THREADS=1"),
        (8, 2, 8, "PASSIVE", "warn", "OMP_NUM_THREADS=4"),
        (2, 4, 1, "PASSIVE", "warn", "num_workers=2"),
    ],
)
def test_more_threads_than_cores(cores, workers, threads, policy, status, cure):
    found = threads_check(cores, workers, threads, {"OMP_WAIT_POLICY": policy})
    assert found.status == status and cure in found.cure


def test_a_containers_small_shared_memory():
    assert [shared_memory_check(size).status for size in (None, 64 * 2**20, GIB)] == ["warn", "warn", "ok"]


def test_known_good_versions_are_those_of_pyproject():
    wanted = {}
    for line in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]:
        name = line.replace("[", "<").replace(">", "<").partition("<")[0]
        parts = dict((p[:2].rstrip("0123456789"), p) for p in line.rpartition("]")[2].removeprefix(name).split(","))
        wanted[name] = (parts[">="][2:] if ">=" in parts else None, parts["<"][1:] if "<" in parts else None)
    assert {name: wanted[name] for name in KNOWN_GOOD} == KNOWN_GOOD


def test_versions_out_of_range_and_both_decords():
    has = {name: least or "0.150.0" for name, (least, _) in KNOWN_GOOD.items()} | {"decord": "0.6.0"}

    def asked(**changes):
        def installed(name):
            version = (has | changes).get(name)
            if version is None:
                raise PackageNotFoundError(name)
            return version

        return {(c.name, c.status): c for c in software_checks(installed, (3, 11))}

    assert {status for _, status in asked()} == {"ok"}
    assert "Prefect's server does not start" in asked(fastapi="0.151.2")["versions", "fail"].what
    assert asked(torch="2.16.0+cu130")["versions", "warn"].got == "2.16.0+cu130"
    assert asked(peft=None)["versions", "fail"].got == "not installed"
    assert asked(decord2="3.0.0")["decord", "fail"].got == "decord 0.6.0 and decord2 3.0.0"
    assert asked(decord=None)["decord", "fail"].got == "neither"
    assert ("python", "fail") in {(c.name, c.status) for c in software_checks(lambda name: has.get(name, "1"), (3, 13))}
    assert in_range("torch", lambda _: "2.15.0+cu128") and not in_range("prefect", lambda _: "3.8.7")


def test_what_is_refused_says_what_got_and_cure():
    good, bad = Check("a", "ok", "x", "y"), Check("disk", "fail", "2 GB on /", "1 GB free", "Free some.")
    refuse([good], "training")
    with pytest.raises(PreflightFailed) as caught:
        refuse([good, Check("w", "warn", "w1", "w2"), bad], "training of stage 'verify'")
    assert str(caught.value).startswith("training of stage 'verify' was not started: 1 of 3 checks failed.\nFAIL    disk: 2 GB on /; got 1 GB free.")
    assert "WARN    w: w1; got w2." in str(caught.value) and "ok" not in as_lines([bad])


def test_the_flows_process_checks_a_stage_without_torch():
    code = "import sys, tasks.preflight; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
