"""Validation while a stage trains: the plain flow loss of fixed clips at fixed noise and levels, so that two numbers differ by the weights.

A clip of the validation split is asked once in every tenth of the noise levels (of two experts: in those that are the stage's own). Noise and
level hang on the clip's key and the tenth; nothing is dropped, nothing is weighted. So stages, runs and numbers of workers can be compared,
as long as clips and latents are the same. No random state that training reads is touched, and no bit of what it trains.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pvtt_model.backbones.experts import level_range
from pvtt_model.objectives.level_bins import BINS, LevelTally
from pvtt_model.specs import StageSpec
from pvtt_model.training.engine import Engine
from pvtt_model.training.kept_samples import KeptSamples
from pvtt_model.training.samples import Place
from pvtt_model.training.schedule import seed_of
from pvtt_model.training.step_loss import micro_batch_loss

#: The same for every run: it is no setting.
SEED = 20260101
KEPT_BYTES = 256 << 20
#: What makes of a stage's objective the plain question.
PLAIN: dict[str, Any] = {
    "timestep_sampling": "uniform", "shift": 1.0, "shift_by": "fixed", "weighting": "none", "mask_weight": 1.0, "text_dropout": 0.0,
    "reference_dropout": 0.0, "joint_dropout": 0.0, "identity_weight": 0.0, "reference_recon_weight": 0.0, "words_weight": 0.0,
}  # fmt: skip


class Questions(NamedTuple):
    """Some clips at the levels of one tenth: what one forward pass is asked."""

    level: int
    draws: list[tuple[int, int]]  # seed of noise and level, index of the clip


def is_due(step: int, every: int, steps: int | None = None) -> bool:
    """Whether something done every `every` steps is due after `step` steps; 0: never. steps: after the last it is due too."""
    return bool(every) and (step % every == 0 or step == steps)


class Validation:
    """The clips of the validation split, and what they are asked."""

    def __init__(self, places: Sequence[Place], injection: str) -> None:
        """Raises ValueError for no clips."""
        if not places:
            raise ValueError("validation has no clips. Mark some with the split 'validation', or set train.validate_every_steps=0.")
        self.kept = KeptSamples(places, KEPT_BYTES, injection)

    def questions(self, stage: StageSpec) -> list[Questions]:
        """All of them, in an order that hangs on the clips alone; a question's clips are of one bucket."""
        low, high = level_range(stage.backbone)
        by_bucket: dict[int, list[int]] = defaultdict(list)
        for index, bucket in enumerate(self.kept.buckets):
            by_bucket[bucket].append(index)
        size, found = stage.parallel.micro_batch, []
        for level in (i for i in range(BINS) if i / BINS < high and (i + 1) / BINS > low):
            for clips in by_bucket.values():
                draws = [(seed_of("validation", self.kept.places[index].clip_key, level), index) for index in clips]
                found += [Questions(level, draws[start : start + size]) for start in range(0, len(draws), size)]
        return found

    def loss(self, stage: StageSpec, engine: Engine, empty_text_LD: Tensor, max_text_tokens: int) -> dict[str, float]:
        """'validation', the mean over all questions, and 'validation_level3', ..., the mean of each tenth. Every rank must call it.

        The ranks share the questions. Each makes as many forward passes as the others, since under ZeRO-3 a pass is made together; the last
        of them may be one that does not count.
        """
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        tally, asked = LevelTally(), self.questions(stage)
        with at_rest(engine.teacher, engine.device):
            for first in range(0, len(asked), world):
                mine = first + rank
                question = asked[mine] if mine < len(asked) else asked[first]
                counted = tally if mine < len(asked) else LevelTally()
                micro_batch_loss(_plainly(stage, question.level), engine, self.kept, empty_text_LD, max_text_tokens, question.draws, tally=counted)
        sums = torch.stack([tally.sums, tally.counts])
        if world > 1:
            on_device = sums.to(engine.device)
            dist.all_reduce(on_device)
            sums = on_device.cpu()
        by_level = {f"validation_level{i}": float(total / count) for i, (total, count) in enumerate(sums.T.tolist()) if count}
        return {"validation": float(sums[0].sum() / sums[1].sum()), **by_level}


def _plainly(stage: StageSpec, level: int) -> StageSpec:
    """The stage with nothing dropped or weighted, and the levels of one tenth."""
    asked = PLAIN | {"sigma_low": level / BINS, "sigma_high": (level + 1) / BINS}
    return stage.model_copy(update={"objective": stage.objective.model_copy(update=asked), "train": stage.train.model_copy(update={"seed": SEED})})


@contextmanager
def at_rest(teacher: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the teacher answers as in use: no dropout, no gradients, and random numbers of its own. Outside all is as it was."""
    devices = [device] if device.type == "cuda" else []
    was = teacher.training
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        teacher.eval()
        try:
            yield
        finally:
            teacher.train(was)
