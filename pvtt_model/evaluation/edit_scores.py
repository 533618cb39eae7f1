"""What is known of one edit: its metrics, or why it has none; and of a run: the sanity checks. Plain JSON, no NaN, no infinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Direction = Literal["higher", "lower", "context"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Status = Literal["done", "failed", "quarantined", "missing"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(Frozen):
    """One metric of one edit. `value` None: it could not be measured, and `note` says why."""

    name: str
    value: Finite | None
    direction: Direction = Field(description="which way is better; context: read beside another metric, neither")
    extractor: str | None = None
    note: str = ""


def measure(name: str, direction: Direction, note: str, metric: Callable[..., float], *args: Any) -> Score:
    """The metric's value, or None with the reason where it cannot be had of this edit."""
    try:
        return Score(name=name, value=metric(*args), direction=direction, note=note)
    except ValueError as error:
        return Score(name=name, value=None, direction=direction, note=str(error))


class EditScores(Frozen):
    """One edit: scored (done), not made (failed), made but not to be believed (quarantined), or planned and not to be had (missing), with the reason."""

    clip_key: str
    reference_key: str = ""
    prompt: str = ""
    status: Status
    reason: str = ""
    groups: dict[str, str] = Field(default_factory=dict, description="group -> which, e.g. category -> bag; a table of means for each group")
    scores: dict[str, Score] = Field(default_factory=dict)


class Check(Frozen):
    """One sanity check of a run: what would make its numbers worthless. The baselines a check holds the edits against stand in the metrics."""

    name: str
    status: Literal["passed", "failed", "cannot tell", "not run"]
    said: str = Field(description="what was found, in figures; what to do where it failed")
    clips: tuple[str, ...] = Field(default=(), description="clip_keys of the edits it is about")
