"""The checks before a run: all of them for `pvtt doctor`, those of a stage for its training. No Prefect in here, and no torch at the top.

What pvtt_model can know by itself is in pvtt_model/preflight; here the infrastructure's facts are judged and the two are put together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from infra.probes import prefect_answers, probe_store, ray_answers, without_secrets
from infra.settings import Settings
from infra.store import StoreRefused
from infra.uris import is_remote
from infra.weights import WeightsUnavailable, find_weights
from pvtt_model.backbones.architectures import architecture, files_wanted
from pvtt_model.nano.shipped import shipped_folder
from pvtt_model.preflight.check import Check
from pvtt_model.preflight.disk import Wanted, disk_checks
from pvtt_model.preflight.machine import cores, host_memory, instructions, shared_memory_bytes
from pvtt_model.preflight.processor import instructions_check, shared_memory_check, threads_check
from pvtt_model.preflight.sharding import network_checks, sharding_checks
from pvtt_model.preflight.software import software_checks, versions_known
from pvtt_model.specs import ModelSpec, ParallelSpec, StageSpec

SKEW_S = 20.0  # of clocks: gc's grace and the records' times hang on them
SLOW_S = 2.0  # a small object that takes longer than this makes every shard wait


def driver_checks(stage: StageSpec, where: Settings) -> list[Check]:
    """What the flow's process can know of a stage without loading torch: milliseconds. The workers look at their devices and weights."""
    local = not where.ray_address
    backbone = weights_found([f"stages.{stage.name}.backbone"], stage.backbone, where).check
    return [
        *software_checks(),
        *sharding_checks(stage, versions_known()),
        *network_checks(stage),
        *([] if backbone is None else [backbone]),
        *disk_checks([Wanted(folder, 0, "") for folder in (where.home, store_folder(where)) if folder is not None]),
        *(processor_checks(stage.parallel, where) if local else []),
    ]


def store_folder(where: Settings) -> Path | None:
    """The store's folder, None where it is on S3."""
    return None if is_remote(where.store) else Path(where.store.removeprefix("file://"))


def processor_checks(parallel: ParallelSpec, where: Settings) -> list[Check]:
    """The CPU for a local Ray. Ray gives each worker of a CPU training its share of the cores as threads, unless OMP_NUM_THREADS says otherwise."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    workers = parallel.num_workers
    threads = int(asked) if asked.isdigit() and int(asked) else max(1, where.num_cpus // workers)
    found = [shared_memory_check(shared_memory_bytes())]
    if parallel.accelerator == "gpu":
        return found
    if workers > where.num_cpus:
        cure = "Set parallel.num_workers lower, PVTT_NUM_CPUS higher, or RAY_ADDRESS to a cluster."
        found.append(Check("workers", "fail", f"a core for each of {workers} workers", f"{where.num_cpus} for the local Ray", cure))
    return [instructions_check(instructions(), parallel), threads_check(min(cores(), where.num_cpus), workers, threads), *found]


class Looked(NamedTuple):
    """check: of where the weights are, None where they are here and their files say the rest; folder: where; bytes: to fetch."""

    check: Check | None
    folder: Path | None = None
    bytes: int = 0


def weights_found(paths: Sequence[str], spec: ModelSpec, where: Settings) -> Looked:
    """Whether a run would find the weights of `spec`; nothing is fetched. paths: of the settings that name it, for the override that mends it.

    On a cluster only a revision that is none is a failure: a path or the hub may be in the nodes' reach alone.
    """
    name, what = f"weights {paths[0]}", f"'{spec.architecture}' from {without_secrets(spec.weights)}"
    if spec.weights.startswith("seed:") and not architecture(spec.architecture).nano:
        cure = f"Set {paths[0]}.weights to a folder, s3:// or hf://, or take a nano architecture."
        return Looked(Check(name, "fail", what, "a seed, from which only nano architectures are made", cure))
    if spec.weights.startswith("seed:"):
        return Looked(Check(name, "ok", what, "random weights from a seed: a stand-in"))
    try:
        if spec.weights.startswith("nano:"):
            return Looked(None, shipped_folder(spec.weights))
        found = find_weights(spec, where.cache / "weights", files_wanted(spec.architecture))
    except (ValueError, OSError, StoreRefused, WeightsUnavailable) as error:
        if spec.weights.startswith("hf://") and isinstance(error, ValueError):
            pins = " ".join(f"--set {path}.revision=COMMIT" for path in paths)
            cure = f"Pin it: {pins}, COMMIT being the 40-digit one of https://huggingface.co/{spec.weights.removeprefix('hf://')}/commits/main."
            return Looked(Check(name, "fail", f"{what} at a commit", f"revision '{spec.revision}', which may move", cure))
        if where.ray_address:
            return Looked(Check(name, "skipped", what, "not seen from here; the cluster's nodes look for themselves"))
        cure = f"Set {', '.join(f'{path}.weights' for path in paths)} to where they are."
        return Looked(Check(name, "fail", what, f"{type(error).__name__}: {error}", cure))
    if found.folder is not None:
        return Looked(None, found.folder)
    got = f"{found.files} files, {found.bytes / 1e6:,.1f} MB to fetch; looked into before training"
    return Looked(Check(name, "ok", what, got), None, found.bytes)


def store_check(uri: str) -> Check:
    """A round trip through the store."""
    what = f"the store {without_secrets(uri)}: create once, read, delete"
    try:
        facts = probe_store(uri)
    except (StoreRefused, OSError, ValueError) as error:
        return Check("store", "fail", what, f"{type(error).__name__}: {error}", "Correct --store or PVTT_STORE, or its server.")
    got = f"put {facts.put_s * 1e3:.1f} ms, get {facts.get_s * 1e3:.1f} ms, delete {facts.delete_s * 1e3:.1f} ms, clock {facts.skew_s:+.1f} s"
    if abs(facts.skew_s) > SKEW_S:
        return Check("store", "warn", what, got, "Set this machine's clock (NTP): the grace of `pvtt artifacts gc` counts by the store's.")
    if max(facts.put_s, facts.get_s) > SLOW_S:
        return Check("store", "warn", what, got, "A nearer or faster store: every shard and checkpoint waits for it.")
    return Check("store", "ok", what, got)


def services_checks(where: Settings) -> Iterator[Check]:
    """Ray and Prefect, where the environment names them."""
    if where.ray_address:
        why = ray_answers(where.ray_address)
        what, cure = (
            f"a Ray cluster at RAY_ADDRESS={without_secrets(where.ray_address)}",
            "Start it, correct the address, or unset it for a local Ray.",
        )
        yield Check("ray", "fail" if why else "ok", what, why or "answers", cure if why else "")
    else:
        yield Check("ray", "ok", "RAY_ADDRESS, or a local Ray", f"a local one of {where.num_cpus} CPUs, started by the run")
    api = os.environ.get("PREFECT_API_URL")
    if api:
        why = prefect_answers(api)
        what, cure = f"a Prefect server at PREFECT_API_URL={without_secrets(api)}", "Start it (pvtt up), or unset the variable."
        yield Check("prefect", "fail" if why else "ok", what, why or "answers", cure if why else "")
    else:
        yield Check("prefect", "ok", "PREFECT_API_URL, or a local server", "unset: pvtt run starts one")


def host_bytes(where: Settings) -> int | None:
    """The machine's free memory for a local Ray's workers; None where they are on a cluster."""
    return None if where.ray_address else host_memory().available
