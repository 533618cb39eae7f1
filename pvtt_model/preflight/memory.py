"""Memory of a stage by the plan's formulas against what is there, and the settings with which it would fit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

from pvtt_model.plan_flops import video_tokens
from pvtt_model.plan_memory import BYTES, Memory, clip_width, gpu_memory, reference_patches
from pvtt_model.plan_parameters import Parameters, count_parameters
from pvtt_model.preflight.check import Check, Status
from pvtt_model.specs import OptimSpec, ParallelSpec, RecipeSpec, StageSpec, TrainSpec, VideoSpec

GIB = 2**30
SUGGESTIONS = 3
MOST_CHANGES = 4  # settings that one suggestion changes at most
MOST_PLANS = 2000  # that are tried before it is said that no three were found: under 1 ms each
#: Of a stage, what its count of parameters does not hang on: the same count is then found again.
NOT_COUNTED = {"name": "any", "optim": OptimSpec(), "parallel": ParallelSpec(), "train": TrainSpec(steps=1)}

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


class Figures(NamedTuple):
    """Of one stage, by the plan."""

    parameters: Parameters
    memory: Memory
    parallel: ParallelSpec


def figures_of(recipe: RecipeSpec, stage: StageSpec) -> Figures:
    """As `pvtt plan` has them."""
    _, image_width = reference_patches(recipe)
    parameters = _counted(stage.model_copy(update=NOT_COUNTED), image_width, clip_width(recipe))
    return Figures(parameters, gpu_memory(stage, parameters, video_tokens(recipe.latents)), stage.parallel)


@lru_cache(maxsize=64)
def _counted(stage: StageSpec, image_width: int, clip: int | None) -> Parameters:
    return count_parameters(stage, image_width, clip)


def need_of(figures: Figures) -> Need:
    m, p = figures.memory, figures.parameters
    built = BYTES[figures.parallel.precision] * (p.frozen + p.trained)
    if figures.parallel.accelerator == "cpu":
        return Need(0, max(built, m.total + m.host))
    return Need(m.total, max(built, m.host))


def memory_check(recipe: RecipeSpec, stage: StageSpec, room: Room, of_gpu: str = "free") -> list[Check]:
    """One line for the GPU and one for the machine's memory; where it does not fit, with settings that would. of_gpu: what the GPU's bytes are."""
    figures = figures_of(recipe, stage)
    need, m, checks = need_of(figures), figures.memory, []
    cure = ""
    if not _fits(need, room):
        found = settings_that_fit(recipe, stage, room)
        cure = "No setting of sharding, offload, checkpointing, batch, rank or length fits: use larger memory."
        if found:
            cure = f"Any of these fits: {' or '.join(f'[{said}]' for said in found)}."
    if room.gpu is not None:
        parts = f"weights {_gib(m.weights)}, optimizer and gradients {_gib(m.optimizer + m.gradients)}, activations {_gib(m.activations)}"
        what = f"{_gib(m.total)} GiB a GPU by the plan ({parts})"
        tight = need.gpu + GIB > room.gpu  # the plan counts neither the CUDA context nor NCCL, about 1 GiB
        status: Status = "fail" if need.gpu > room.gpu else "warn" if tight else "ok"
        hint = cure if status == "fail" else "Little is left for CUDA's context, NCCL and fragmentation." if tight else ""
        checks.append(Check(f"memory {stage.name}", status, what, f"{_gib(room.gpu)} GiB {of_gpu}", hint))
    if room.host is None:
        return checks
    each = "the whole model, built before it is sharded" if stage.parallel.accelerator == "gpu" else "all of the training, by the plan"
    what = f"{_gib(need.host * room.workers_here)} GiB of the machine's memory: {room.workers_here} workers x {_gib(need.host)} ({each})"
    short = need.host * room.workers_here > room.host
    checks.append(Check(f"host memory {stage.name}", "fail" if short else "ok", what, f"{_gib(room.host)} GiB free", cure if short else ""))
    return checks


def settings_that_fit(recipe: RecipeSpec, stage: StageSpec, room: Room) -> list[str]:
    """At most three settings, each as `--set` arguments, with which the plan fits `room`; those that change least first."""
    return [_arguments(stage, change) for change in _fitting(recipe, stage, room)]


def _fitting(recipe: RecipeSpec, stage: StageSpec, room: Room) -> list[Change]:
    least = 2 * figures_of(recipe, stage).parameters.frozen  # the frozen model in bfloat16, built by one worker
    if room.host is not None and least > room.host:
        return []
    moves = list(_moves(recipe, stage, room))
    found: list[tuple[tuple[int, ...], Change]] = []
    for tried, chosen in enumerate(c for size in range(1, MOST_CHANGES + 1) for c in combinations(range(len(moves)), size)):
        if len(found) == SUGGESTIONS or tried == MOST_PLANS:
            break
        if any(set(before) <= set(chosen) for before, _ in found):
            continue  # what already fits needs no further change
        change: Change = {}
        clash = False
        for i in chosen:
            clash = clash or any(change.get(path, value) != value for path, value in moves[i].items())
            change |= moves[i]
        if clash:
            continue
        workers = min(room.workers_here, change.get("parallel.num_workers", room.workers_here))
        need = _need_with(recipe, stage, change)
        if need is not None and _fits(need, room._replace(workers_here=workers)):
            found.append((chosen, change))
    return [change for _, change in found]


def _moves(recipe: RecipeSpec, stage: StageSpec, room: Room) -> Iterator[Change]:
    """Single changes that save memory, those that keep the training the same first."""
    p, video = stage.parallel, recipe.latents.video
    if not p.gradient_checkpointing:
        yield {"parallel.gradient_checkpointing": True}
    if p.checkpointing != "full":
        yield {"parallel.checkpointing": "full"}
    if p.micro_batch > 1:
        yield {"parallel.micro_batch": 1, "parallel.grad_accum": p.grad_accum * p.micro_batch}
    if p.sharding < 3 and p.num_workers > 1:
        yield {"parallel.zero_stage": 3} if p.strategy == "deepspeed" else {"parallel.strategy": "fsdp2"}
    if p.accelerator == "gpu":
        zero: Change = {} if p.strategy == "deepspeed" else {"parallel.strategy": "deepspeed"}
        if not p.offload_optimizer:
            yield {"parallel.offload_optimizer": True} | zero | ({} if p.zero_stage else {"parallel.zero_stage": 1})
        if not p.offload_params:
            yield {"parallel.offload_params": True, "parallel.zero_stage": 3} | zero
    for fewer in (p.num_workers // 2, p.num_workers // 4, 1):  # the machine's memory holds the model once a worker
        if 0 < fewer < p.num_workers and p.num_workers % fewer == 0 and room.host is not None:
            yield {"parallel.num_workers": fewer, "parallel.grad_accum": p.grad_accum * (p.num_workers // fewer)}
    if p.precision == "float32" and p.accelerator == "gpu":
        yield {"parallel.precision": "bfloat16"}
    for rank in (stage.lora.rank // 2, 16):
        if 0 < rank < stage.lora.rank:
            yield {"lora.rank": rank, "lora.alpha": rank}
    for share in (2, 4):
        frames = (video.num_frames // share) // 4 * 4 + 1
        if frames < video.num_frames:
            yield {"latents.video.num_frames": frames}
    for tenths in (15, 20):
        width, height = (max(16, side * 10 // tenths // 16 * 16) for side in video.largest)
        if (width, height) != video.largest:
            yield {"latents.video.width": width, "latents.video.height": height, "latents.video.buckets": []}


def _need_with(recipe: RecipeSpec, stage: StageSpec, change: Change) -> Need | None:
    """The need of the stage so changed; None where the settings refuse each other."""
    video, own = recipe.latents.video.model_dump(), stage.model_dump()
    for path, value in change.items():
        *parents, last = path.removeprefix("latents.video.").split(".")
        place = video if path.startswith("latents.video.") else own
        for parent in parents:
            place = place[parent]
        place[last] = value
    try:
        latents = recipe.latents.model_copy(update={"video": VideoSpec.model_validate(video)})
        return need_of(figures_of(recipe.model_copy(update={"latents": latents}), StageSpec.model_validate(own)))
    except ValueError:
        return None


def _arguments(stage: StageSpec, change: Change) -> str:
    paths = {path if path.startswith("latents.") else f"stages.{stage.name}.{path}": value for path, value in change.items()}
    return " ".join(f"--set {path}={str(value).lower() if isinstance(value, bool) else value}" for path, value in paths.items())


def _fits(need: Need, room: Room) -> bool:
    return (room.gpu is None or need.gpu <= room.gpu) and (room.host is None or need.host * room.workers_here <= room.host)


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}"
