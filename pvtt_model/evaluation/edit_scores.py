"""What is known of one edit: its metrics, or why it has none; and of a run: the sanity checks. Plain JSON, no NaN, no infinity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Direction = Literal["higher", "lower", "context"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Status = Literal["done", "failed", "quarantined", "missing"]
Outcome = Literal["passed", "failed", "cannot tell", "not run"]


def suffixed(metric: str, suffix: str) -> str:
    """clip_i[nano] and _source: clip_i_source[nano]."""
    name, bracket, rest = metric.partition("[")
    return f"{name}{suffix}{bracket}{rest}"


def first_of(names: Iterable[str], family: str) -> str | None:
    """The first name that is `family`, or is that with a stand-in's or judge's bracket."""
    return next((name for name in names if name == family or name.startswith(f"{family}[")), None)


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
    """One edit: scored (done), or with the reason not made (failed), made but not to be believed (quarantined), not to be had (missing)."""

    clip_key: str
    reference_key: str = ""
    prompt: str = ""
    status: Status
    reason: str = ""
    groups: dict[str, str] = Field(default_factory=dict, description="group -> which, e.g. category -> bag; a table of means for each group")
    scores: dict[str, Score] = Field(default_factory=dict)


class MetricCard(Frozen):
    """What the figure is, wherever the report goes."""

    range: str = Field(description="that a value can have, with its unit")
    source: str = Field(description="paper, or 'ours'")


class Metric(Frozen):
    """One metric over the edits that have it. std is the population's (0 for one edit); worst is the clip to look at first."""

    name: str
    value: Finite = Field(description="mean over n edits")
    std: Finite
    n: int
    worst: str | None = Field(description="clip_key of the worst edit; None where no direction is better")
    worst_value: Finite | None = None
    low: Finite | None = Field(default=None, description="95 % bootstrap interval of the mean over clips; None for one, or of the whole set")
    high: Finite | None = None
    direction: Direction
    extractor: str | None = None
    note: str = ""
    card: MetricCard | None = None


class Check(Frozen):
    """One sanity check of a run: what would make its numbers worthless. The baselines a check holds the edits against stand in the metrics."""

    name: str
    status: Outcome
    said: str = Field(description="what was found, in figures; what to do where it failed")
    clips: tuple[str, ...] = Field(default=(), description="clip_keys of the edits it is about")
