"""Is my loss right? The loss by noise level against a reference curve: a table, a figure, and a verdict a bin. Light: no torch.

The curve is that of the untrained base. In a training's first steps every bin should be on it: too high says that the model is asked
another question than it was trained on (the velocity's sign, the timestep's scale, latents not normalised, text of another encoder, a
context in another order); too low, that the answer leaks (the old product left in the context, a mask that hides nothing). Later bins sink
below it: that is learning; one that is then too high has been trained away from the base. Loss of the velocity, unweighted; lower is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BINS = 10
TOLERANCE = 0.1  # of the reference's mean, beside three standard errors of the difference
FIRST_STEPS = 20
Verdict = Literal["right", "too high", "too low", "no data"]


class Level(NamedTuple):
    """The losses of one bin of levels: mean and standard deviation between samples (0 where it cannot be told), and how many; all 0 for none."""

    mean: float
    std: float
    count: int  # type: ignore[assignment]  # a tuple has a method of that name; the files have the field


class Curve(NamedTuple):
    """A reference, one Level a bin, and in words what it was measured on."""

    source: str
    levels: tuple[Level, ...]

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "levels": [level._asdict() for level in self.levels]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Curve:
        """Raises ValueError for another number of bins."""
        if len(value["levels"]) != BINS:
            raise ValueError(
                f"a reference curve of {len(value['levels'])} bins; it takes {BINS}, of a tenth of the noise levels each. Measure it again."
            )
        return cls(value["source"], tuple(Level(float(v["mean"]), float(v["std"]), int(v["count"])) for v in value["levels"]))


class Compared(NamedTuple):
    """One bin of a training against the reference."""

    low: float
    high: float
    loss: float | None
    count: int  # type: ignore[assignment]  # as of Level
    reference: float | None
    allowed: float | None  # the distance from the reference that is still 'right'
    verdict: Verdict


def levels_of(records: Sequence[Mapping[str, float]]) -> tuple[Level, ...]:
    """The bins of the training records together, exact over steps and workers.

    The deviation between samples is estimated from the steps' means: sqrt(sum n_i (m_i - m)^2 / (k - 1)) of k steps with n_i samples each.
    """
    return tuple(_level([(r[f"level{i}_sum"], r[f"level{i}_count"]) for r in records if f"level{i}_count" in r]) for i in range(BINS))


def _level(steps: list[tuple[float, float]]) -> Level:
    count = sum(n for _, n in steps)
    if not count:
        return Level(0.0, 0.0, 0)
    mean = sum(total for total, _ in steps) / count
    between = sum(n * (total / n - mean) ** 2 for total, n in steps)
    return Level(mean, math.sqrt(between / (len(steps) - 1)) if len(steps) > 1 else 0.0, int(count))


def compare_to_reference(levels: Sequence[Level], curve: Curve, tolerance: float = TOLERANCE) -> list[Compared]:
    """Each bin's verdict. Right is within tolerance x reference + 3 std sqrt(1/n + 1/n_ref) of the reference, std that of the reference."""
    found = []
    for i, (level, reference) in enumerate(zip(levels, curve.levels, strict=True)):
        low, high = i / BINS, (i + 1) / BINS
        if not level.count or not reference.count:
            there = (level.mean if level.count else None, level.count, reference.mean if reference.count else None)
            found.append(Compared(low, high, *there, None, "no data"))
            continue
        allowed = tolerance * reference.mean + 3 * reference.std * math.sqrt(1 / level.count + 1 / reference.count)
        off = level.mean - reference.mean
        verdict: Verdict = "too high" if off > allowed else "too low" if off < -allowed else "right"
        found.append(Compared(low, high, level.mean, level.count, reference.mean, allowed, verdict))
    return found


def first_steps_curve(records: Sequence[Mapping[str, float]], start: str) -> Curve:
    """Where no curve was measured before: that of the training's own first steps, from `start` (in words) on the training's own clips."""
    first = records[:FIRST_STEPS]
    return Curve(f"this training's own first {len(first)} steps, from {start}; no curve of these models and settings ships", levels_of(first))


def level_report(records: Sequence[Mapping[str, float]], shipped: Curve | None, start: str) -> dict[str, Any] | None:
    """The first and the last steps against the reference, as JSON; None where the records hold no bins (they are of an older training).

    `shipped` is the curve measured before, if there is one; without it the first steps are the reference and are not compared with themselves.
    """
    if not any(level.count for level in levels_of(records)):
        return None
    curve = shipped or first_steps_curve(records, start)
    windows = {f"first {len(records[:FIRST_STEPS])} steps": records[:FIRST_STEPS]} if shipped else {}
    last = records[-max(FIRST_STEPS, len(records) // 10) :]
    windows[f"last {len(last)} steps"] = last
    compared = {name: [c._asdict() for c in compare_to_reference(levels_of(part), curve)] for name, part in windows.items()}
    return {"reference": curve.to_json(), "tolerance": TOLERANCE, "compared": compared}


def level_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report as rows of a table: a bin a row, for each window its loss, how many samples, and the verdict."""
    rows: list[dict[str, Any]] = []
    for i, level in enumerate(report["reference"]["levels"]):
        rows.append({"sigma": f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}", "reference": level["mean"] if level["count"] else None})
        for name, compared in report["compared"].items():
            c = compared[i]
            rows[-1] |= {name: c["loss"], f"{name}, samples": c["count"], f"{name}, verdict": c["verdict"]}
    return rows


def loss_by_level(report: Mapping[str, Any], path: str | Path, *, title: str = "") -> Path:
    """Write a PNG (1200 x 600 px): the reference with what is right round it, and each window's losses. The same report gives the same bytes."""
    figure = Figure(figsize=(12, 6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    levels = [(i, v) for i, v in enumerate(report["reference"]["levels"]) if v["count"]]
    axes.plot([(i + 0.5) / BINS for i, _ in levels], [v["mean"] for _, v in levels], color="#6b7280", linewidth=2, label="reference")
    for (name, compared), colour in zip(report["compared"].items(), ("#b45309", "#1d4ed8"), strict=False):
        there = [c for c in compared if c["verdict"] != "no data"]
        middle = [(c["low"] + c["high"]) / 2 for c in there]
        low, high = ([c["reference"] + sign * c["allowed"] for c in there] for sign in (-1, 1))
        axes.fill_between(middle, low, high, color=colour, alpha=0.08, linewidth=0)
        axes.plot(middle, [c["loss"] for c in there], color=colour, marker="o", label=name)
    axes.set_xlim(0, 1)
    axes.set_xlabel("noise level sigma: 0 is data, 1 is noise")
    axes.set_ylabel("squared error of the velocity")
    axes.set_title(f"{title}\nreference: {report['reference']['source']}", fontsize=9, wrap=True)
    axes.legend(loc="upper right")
    axes.grid(alpha=0.3)
    path = Path(path)
    figure.savefig(path, format="png", metadata={"Software": None})
    return path
