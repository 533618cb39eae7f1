"""Settings of a stage that contradict each other, or that are known to end badly: ZeRO, checkpointing, batches, the network. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pvtt_model.preflight.check import Check
from pvtt_model.preflight.machine import network_interfaces
from pvtt_model.specs import StageSpec


def sharding_checks(stage: StageSpec, versions_known: bool = True) -> list[Check]:
    """The traps of ZeRO and of the batch in a stage's own settings. One 'ok' where there is none.

    ZeRO-3 with LoRA and gradient checkpointing, a known trap elsewhere (recomputed tensors of shape [0] against [N]), trains with the pinned
    DeepSpeed and torch to ZeRO-2's losses (tests/pvtt_model/preflight/test_zero3_trap.py); with other versions it is warned of.
    """
    name, p = f"settings {stage.name}", stage.parallel.as_run()
    at = f"--set stages.{stage.name}.parallel"
    found = []
    if p.offload_params and p.zero_stage != 3:
        cure = f"{at}.zero_stage=3, or {at}.offload_params=false."
        found.append(Check(name, "fail", "offload_params at ZeRO-3, which alone shards weights", f"ZeRO-{p.zero_stage}", cure))
    if p.offload_optimizer and p.zero_stage == 0:
        cure = f"{at}.zero_stage=1 or more, or {at}.offload_optimizer=false."
        found.append(Check(name, "fail", "offload_optimizer at ZeRO-1 or more", "ZeRO-0, where nothing is offloaded", cure))
    if (p.offload_params or p.offload_optimizer) and p.accelerator == "cpu":
        cure = f"{at}.offload_optimizer=false {at}.offload_params=false."
        found.append(Check(name, "warn", "offloading from a GPU", "a CPU training: it is the same memory", cure))
    if p.strategy == "ddp" and p.num_workers == 1:
        found.append(Check(name, "warn", "more than one worker to average over", "DDP on 1 worker", f"{at}.strategy=one."))
    if p.sharding and p.num_workers == 1:
        got = f"{p.label()} on 1 worker: nothing is shared, its buffers cost"
        alone = f"{at}.zero_stage=0" if p.strategy == "deepspeed" else f"{at}.strategy=one"
        cure = f"{alone} where the optimizer need not be offloaded, or more workers."
        found.append(Check(name, "skipped" if p.offload_optimizer or p.offload_params else "warn", "more than one worker to share among", got, cure))
    if p.strategy == "deepspeed" and p.zero_stage == 3 and p.gradient_checkpointing and not versions_known:
        got = "another DeepSpeed or torch, with which recomputed weights may be empty"
        cure = f"make install, or {at}.gradient_checkpointing=false, or {at}.zero_stage=2."
        found.append(Check(name, "warn", "ZeRO-3 with LoRA and checkpointing on the versions it was tested with", got, cure))
    found += _batches(stage, name)
    arithmetic = f"{p.micro_batch} x {p.num_workers} workers x {p.grad_accum} accumulated = {p.global_batch}, {p.label()}"
    return found or [Check(name, "ok", "ZeRO, offload and batch agree", arithmetic)]


def _batches(stage: StageSpec, name: str) -> list[Check]:
    p, data = stage.parallel.as_run(), stage.data
    if data.max_pairs is not None and data.max_pairs < data.min_pairs:
        cure = f"--set stages.{stage.name}.data.min_pairs={data.max_pairs}."
        return [Check(name, "fail", "min_pairs of at most max_pairs", f"{data.min_pairs} and {data.max_pairs}", cure)]
    most = data.max_pairs
    if most is not None and most < p.global_batch:
        got = f"a global batch of {p.global_batch} = {p.micro_batch} x {p.num_workers} x {p.grad_accum}, of {most} pairs"
        cure = f"--set stages.{stage.name}.parallel.grad_accum=1 or fewer workers: a step would see a pair more than once."
        return [Check(name, "warn", "a step that sees each pair once", got, cure)]
    if stage.optim.warmup_steps >= stage.train.steps:
        got = f"warm-up over {stage.optim.warmup_steps} of {stage.train.steps} steps: lr {stage.optim.lr:g} is never reached"
        cure = f"--set stages.{stage.name}.optim.warmup_steps={stage.train.steps // 10}."
        return [Check(name, "warn", "a warm-up shorter than the training", got, cure)]
    return []


def network_checks(stage: StageSpec, environment: Mapping[str, str] = os.environ, interfaces: frozenset[str] | None = None) -> list[Check]:
    """The environment's wishes for NCCL and gloo: an interface that is not there hangs or breaks the first collective.

    NCCL takes a list of prefixes, '=' before them for whole names and '^' for those to leave out; gloo whole names.
    """
    has = network_interfaces() if interfaces is None else interfaces
    found, named = [], []
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        asked = environment.get(name, "")
        if not asked or asked.startswith("^"):
            continue
        named.append(f"{name}={asked}")
        whole = asked.startswith("=") or name.startswith("GLOO")
        if not any(here == n if whole else here.startswith(n) for n in asked.removeprefix("=").split(",") for here in has):
            got = f"here are {', '.join(sorted(has)) or 'none'}"
            found.append(Check("network", "fail", f"the interface of {name}={asked}", got, f"Unset {name}, or name one of these."))
    off = [f"{name}={environment[name]}" for name in ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE") if environment.get(name) == "1"]
    if off and stage.parallel.accelerator == "gpu" and stage.parallel.num_workers > 1:
        cure = "Unset them where the hardware has these ways: without them every step is slower."
        found.append(Check("network", "warn", "NCCL's fast ways left on", ", ".join(off), cure))
    return found or [Check("network", "ok", "the interfaces that the environment names for NCCL and gloo", ", ".join(named) or "none is named")]
