"""Memory of a stage by the plan's formulas against what is there, and the settings with which it would fit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

from pvtt_model.plan import StagePlan, plan_recipe
from pvtt_model.plan_memory import BYTES
from pvtt_model.preflight.check import Check
from pvtt_model.specs import RecipeSpec, StageSpec

GIB = 2**30
SUGGESTIONS = 3
MOST_CHANGES = 4  # settings that one suggestion changes at most
MOST_PLANS = 300  # that are tried before it is said that none was found: 20 ms each

#: A change of one setting: dotted path -> value. Several fields where one alone would mean another training.
Change = dict[str, Any]


class Room(NamedTuple):
    """What there is. gpu: bytes of one GPU, None for a CPU training; host: bytes of this machine for all its workers; both as free now."""

    gpu: int | None
    host: int | None  # None: the workers are elsewhere
    workers_here: int


class Need(NamedTuple):
    """Bytes a worker, at its peak. host: the whole model while it is built (each rank builds it before it is sharded), and what is offloaded;
    on a CPU all there is."""

    gpu: int
    host: int


def need_of(plan: StagePlan) -> Need:
    m, p = plan.memory, plan.parameters
    built = BYTES[plan.precision] * (p.frozen + p.trained)
    if plan.accelerator == "cpu":
        return Need(0, max(built, m.total + m.host))
    return Need(m.total, max(built, m.host))


def plan_stage(recipe: RecipeSpec, stage: StageSpec) -> StagePlan:
    """The figures of one stage by itself."""
    return _planned(recipe.model_copy(update={"stages": (stage.model_copy(update={"init_from": "base"}),)}).model_dump_json())


@lru_cache(maxsize=1024)
def _planned(recipe: str) -> StagePlan:
    return plan_recipe(RecipeSpec.model_validate_json(recipe), "preflight").stages[0]


def memory_check(recipe: RecipeSpec, stage: StageSpec, room: Room) -> list[Check]:
    """One line for the GPU and one for the machine's memory; where it does not fit, with settings that would."""
    plan = plan_stage(recipe, stage)
    need, m, checks = need_of(plan), plan.memory, []
    cure = ""
    if not _fits(need, room):
        found = settings_that_fit(recipe, stage, room)
        cure = " or ".join(f"[{said}]" for said in found)
        cure = (
            f"Any of these fits: {cure}."
            if cure
            else "No setting of sharding, offload, checkpointing, batch, rank or length fits: use larger memory."
        )
    if room.gpu is not None:
        parts = f"weights {_gib(m.weights)}, optimizer and gradients {_gib(m.optimizer + m.gradients)}, activations {_gib(m.activations)}"
        what = f"{_gib(m.total)} GiB a GPU by the plan ({parts})"
        tight = need.gpu + GIB > room.gpu  # the plan counts neither the CUDA context nor NCCL, about 1 GiB
        status = "fail" if need.gpu > room.gpu else "warn" if tight else "ok"
        hint = cure if status == "fail" else "Little is left for CUDA's context, NCCL and fragmentation." if tight else ""
        checks.append(Check(f"memory {stage.name}", status, what, f"{_gib(room.gpu)} GiB", hint))
    if room.host is None:
        return checks
    each = "the whole model, built before it is sharded" if plan.accelerator == "gpu" else "all of the training, by the plan"
    what = f"{_gib(need.host * room.workers_here)} GiB of the machine's memory: {room.workers_here} workers x {_gib(need.host)} ({each})"
    short = need.host * room.workers_here > room.host
    checks.append(Check(f"host memory {stage.name}", "fail" if short else "ok", what, f"{_gib(room.host)} GiB free", cure if short else ""))
    return checks


def settings_that_fit(recipe: RecipeSpec, stage: StageSpec, room: Room) -> list[str]:
    """At most three settings, each as `--set` arguments, with which the plan fits `room`; those that change least first."""
    return [_arguments(stage, change) for change, _ in _fitting(recipe, stage, room)]


def _fitting(recipe: RecipeSpec, stage: StageSpec, room: Room) -> list[tuple[Change, Need]]:
    moves = list(_moves(recipe, stage, room))
    found: list[tuple[tuple[int, ...], Change, Need]] = []
    for tried, chosen in enumerate(c for size in range(1, MOST_CHANGES + 1) for c in combinations(range(len(moves)), size)):
        if len(found) == SUGGESTIONS or tried == MOST_PLANS:
            break
        if any(set(before) <= set(chosen) for before, _, _ in found):
            continue  # what already fits needs no further change
        change: Change = {}
        clash = False
        for i in chosen:
            clash = clash or any(change.get(path, value) != value for path, value in moves[i].items())
            change |= moves[i]
        need = None if clash else _need_with(recipe, stage, change)
        if need is not None and _fits(need, room._replace(workers_here=change.get("workers_here", room.workers_here))):
            found.append((chosen, change, need))
    return [(change, need) for _, change, need in found]


def _moves(recipe: RecipeSpec, stage: StageSpec, room: Room) -> Iterator[Change]:
    """Single changes that save memory, those that keep the training the same first."""
    p, video = stage.parallel, recipe.latents.video
    if not p.gradient_checkpointing:
        yield {"parallel.gradient_checkpointing": True}
    if p.micro_batch > 1:
        yield {"parallel.micro_batch": 1, "parallel.grad_accum": p.grad_accum * p.micro_batch}
    if p.zero_stage < 3 and p.num_workers > 1:
        yield {"parallel.zero_stage": 3}
    if p.accelerator == "gpu":
        if not p.offload_optimizer:
            yield {"parallel.offload_optimizer": True} | ({} if p.zero_stage else {"parallel.zero_stage": 1})
        if not p.offload_params:
            yield {"parallel.offload_params": True, "parallel.zero_stage": 3}
    for fewer in (p.num_workers // 2, p.num_workers // 4, 1):  # the machine's memory holds the model once a worker
        if 0 < fewer < p.num_workers and p.num_workers % fewer == 0 and room.workers_here > 1:
            yield {
                "parallel.num_workers": fewer,
                "parallel.grad_accum": p.grad_accum * (p.num_workers // fewer),
                "workers_here": min(room.workers_here, fewer),
            }
    if p.precision == "float32" and p.accelerator == "gpu":
        yield {"parallel.precision": "bfloat16"}
    for rank in (stage.lora.rank // 2, 16):
        if 0 < rank < stage.lora.rank:
            yield {"lora.rank": rank, "lora.alpha": rank}
    half = (video.num_frames // 2) // 4 * 4 + 1
    if half < video.num_frames:
        yield {"latents.video.num_frames": half}
    width, height = (max(16, side // 2 // 16 * 16) for side in video.largest)
    if (width, height) != video.largest:
        yield {"latents.video.width": width, "latents.video.height": height, "latents.video.buckets": []}


def _need_with(recipe: RecipeSpec, stage: StageSpec, change: Change) -> Need | None:
    """The need of the stage so changed; None where the settings refuse each other."""
    values = {"recipe": recipe.model_dump(mode="json"), "stage": stage.model_dump(mode="json")}
    for path, value in change.items():
        if path == "workers_here":
            continue
        *parents, last = path.split(".")
        place = values["recipe" if parents[0] == "latents" else "stage"]
        for parent in parents:
            place = place[parent]
        place[last] = value
    try:
        return need_of(plan_stage(RecipeSpec.model_validate(values["recipe"]), StageSpec.model_validate(values["stage"])))
    except ValueError:
        return None


def _arguments(stage: StageSpec, change: Change) -> str:
    own = {path: value for path, value in change.items() if path != "workers_here"}
    return " ".join(
        f"--set {path if path.startswith('latents.') else f'stages.{stage.name}.{path}'}={str(value).lower() if isinstance(value, bool) else value}"
        for path, value in own.items()
    )


def _fits(need: Need, room: Room) -> bool:
    return (room.gpu is None or need.gpu <= room.gpu) and (room.host is None or need.host * room.workers_here <= room.host)


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}"
