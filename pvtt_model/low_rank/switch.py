"""LoRA Switch: one adapter at a time, in turn along the denoising steps. arXiv:2402.16843."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

from pvtt_model.low_rank.active import activate, adapters_kept, refuse_unknown


class Switch:
    """Adapters in turn, each for `every` denoising steps, then from the first again.

        with Switch(transformer, ("mug", "kitchen"), every=1) as switch:
            for step, timestep in enumerate(scheduler.timesteps):
                switch.on_step(step)
                ...

    Where a sampler calls back after every step: next_step; in a diffusers pipeline: callback_on_step_end=switch.on_step_end. Afterwards the
    adapters act as before. Raises ValueError for unknown names and where `every` is not positive.
    """

    def __init__(self, transformer: Any, names: Sequence[str], every: int = 1) -> None:
        refuse_unknown(transformer, list(names))
        if every < 1:
            raise ValueError(f"Switch(every={every}): the number of steps of each turn is at least 1.")
        self.transformer, self.names, self.every = transformer, tuple(names), every
        self._step = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(adapters_kept(self.transformer))
        self.on_step(0)
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def name_at(self, step: int) -> str:
        """The adapter that acts at a step, counted from 0."""
        return self.names[step // self.every % len(self.names)]

    def on_step(self, step: int) -> None:
        """To be called before the model is asked at `step`."""
        activate(self.transformer, {self.name_at(step): 1.0})
        self._step = step

    def next_step(self) -> None:
        """To be called after a step."""
        self.on_step(self._step + 1)

    def on_step_end(self, pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """diffusers' callback after a step: the next one's adapter."""
        self.on_step(step + 1)
        return kwargs
