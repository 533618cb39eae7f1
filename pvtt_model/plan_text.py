"""A plan as plain text, 150 columns at most."""

from __future__ import annotations

from pvtt_model.plan import GIB, Plan, StagePlan


def render(plan: Plan) -> str:
    """The printed plan: the artifacts, the data set, then a block of figures a stage."""
    lines = [f"recipe {plan.recipe}", "", "artifacts, in the order they are made"]
    state = {True: "exists", False: "to make", None: "?"}
    for artifact in plan.artifacts:
        lines.append(f"  {artifact.name:<34} {artifact.stage or '':<10} {state[artifact.exists]}")
    data = plan.data
    lines += [
        "",
        f"a sample: {plan.tokens:,} video tokens{_of_buckets(plan)}",
        f"a pair on disk, before zstd: {data.total / 1e6:,.2f} MB = latents {data.latents / 1e6:,.2f} + conditions {data.conditions / 1e6:,.2f}"
        f" + masks {data.masks / 1e6:,.2f} (source clips keep their own size)",
    ]
    for stage in plan.stages:
        lines += ["", *_stage(stage, data.total)]
    return "\n".join(lines)


def _of_buckets(plan: Plan) -> str:
    sizes = ", ".join(f"{width}x{height}" for width, height in plan.sizes)
    return f" in the largest of {len(plan.sizes)} buckets ({sizes}), and so all below" if len(plan.sizes) > 1 else ""


def _stage(stage: StagePlan, pair_bytes: int) -> list[str]:
    p, m, f = stage.parameters, stage.memory, stage.flops
    few, many = stage.epochs
    pairs = f"{stage.min_pairs:,}" + (f" to {stage.max_pairs:,}" if stage.max_pairs else " or more")
    epochs = f"{few:.3g} to {many:.3g}" if few is not None else f"at most {many:.3g}"
    size = f"{_bytes(pair_bytes * stage.min_pairs)}" + (f" to {_bytes(pair_bytes * stage.max_pairs)}" if stage.max_pairs else " or more")
    unit = "GPU" if stage.accelerator == "gpu" else "CPU worker"
    verdict = ""
    if stage.accelerator == "gpu":
        fits = m.total <= stage.gpu_memory_gib * GIB
        verdict = f" of {stage.gpu_memory_gib:g} GiB: {'fits' if fits else 'DOES NOT FIT'}"
    host = f"; on the host {_gib(m.host)}" if m.host else ""
    inside = "with checkpointing" if stage.checkpointing else "without checkpointing"
    return [
        f"stage {stage.name}: {stage.backbone}, from {'the stage before' if stage.init_from == 'previous' else f'the {stage.init_from}'},"
        f" {stage.workers} {unit}s, {stage.strategy}, {stage.precision}, lr {stage.lr:g}",
        f"  steps        {stage.steps:,} of {stage.global_batch} samples"
        f" = {stage.micro_batch} x {stage.workers} workers x {stage.grad_accum} accumulated",
        f"  pairs        {pairs}; {epochs} epochs; {size}",
        f"  frozen       {_count(p.frozen)} = base {_count(p.base)}" + (f" + VACE {_count(p.vace)}" if p.vace else ""),
        f"  trained      {_count(p.trained)} = {stage.low_rank} {_count(p.lora)} + reference encoder {_count(p.reference_encoder)}"
        f" + reference K/V {_count(p.reference_kv)}" + (f" + of the backbone {_count(p.backbone)}" if p.backbone else ""),
        f"  memory       {_gib(m.total)} a {unit}{verdict}{host}",
        f"               = weights {_gib(m.weights)} + gradients {_gib(m.gradients)} + optimizer {_gib(m.optimizer)}"
        f" + buffers {_gib(m.buffers)} + activations {_gib(m.activations)} {inside}",
        f"               activations without checkpointing: {_gib(m.activations_without_checkpointing)}",
        f"  FLOPs        {_flops(f.total)} a sample = forward {_flops(f.forward)} + backward {_flops(f.backward)} + recomputed {_flops(f.recompute)}",
        f"               forward = base linear {_flops(f.linear)} + self-attention {_flops(f.self_attention)}"
        f" + cross-attention {_flops(f.cross_attention)}",
        f"                         + {f'VACE {_flops(f.vace)} + ' if f.vace else ''}LoRA {_flops(f.lora)} + reference {_flops(f.reference)}",
        f"               {_flops(stage.step_flops)} a step; {_flops(stage.step_flops * stage.steps)} in all",
        *(f"  not counted  {text}" for text in stage.not_counted),
        f"  gate         {', '.join(stage.gate) or 'none'}",
    ]


def _scaled(value: float, units: list[tuple[float, str]]) -> str:
    for size, unit in units:
        if value >= size:
            return f"{value / size:,.2f} {unit}"
    return f"{value:g}"


def _count(n: int) -> str:
    return _scaled(n, [(1e9, "B"), (1e6, "M"), (1e3, "K")])


def _flops(n: int) -> str:
    return _scaled(n, [(1e21, "ZFLOP"), (1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")])


def _bytes(n: int) -> str:
    return _scaled(n, [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")])


def _gib(n: int) -> str:
    return f"{n / GIB:.2f} GiB" if n >= GIB / 100 else f"{n / 2**20:.2f} MiB"
