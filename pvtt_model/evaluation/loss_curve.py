"""The training log as a picture: loss and its running mean, learning rate, gradient norm, over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DECAY = 0.9  # of the running mean: each step keeps nine tenths of the mean before


def loss_curve(records: Sequence[Mapping[str, float]], path: str | Path, *, title: str = "") -> Path:
    """Write a PNG (1200 x 1000 px) from records of step, loss and, where present, lr and grad_norm; returns its path.

    A loss or norm that is not finite (the loop writes -1 for such a norm) is left out and counted in its panel's title.
    The same records give the same bytes. Raises ValueError for no records or a record without step or loss.
    """
    if not records:
        raise ValueError("no training records: a loss curve wants at least one step.")
    for record in records:
        if "step" not in record or "loss" not in record:
            raise ValueError(f"a training record has the fields {sorted(record)}; it needs 'step' and 'loss'.")
    figure = Figure(figsize=(12, 10), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    loss, lr, norm = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1])
    steps, values, bad = _finite(records, "loss")
    loss.plot(steps, values, color="#9ca3af", linewidth=1, marker="." if len(steps) < 100 else "", label="loss")
    loss.plot(steps, running_mean(values), color="#1d4ed8", linewidth=2, label=f"running mean (decay {_DECAY})")
    at, validation, _ = _finite(records, "validation")
    if at:
        loss.plot(at, validation, color="#b91c1c", linewidth=1.5, marker="o", label="validation (plain flow loss, fixed clips and noise)")
    loss.legend(loc="upper right")
    loss.set_ylabel("loss")
    loss.set_title((f"{title}: " if title else "") + f"{len(records)} steps" + (f", {bad} with a loss that is not finite" if bad else ""))
    for axes, field, colour in ((lr, "lr", "#047857"), (norm, "grad_norm", "#b45309")):
        steps, values, bad = _finite(records, field)
        axes.plot(steps, values, color=colour, linewidth=1.5)
        axes.set_ylabel({"lr": "learning rate", "grad_norm": "gradient norm"}[field])
        if not values:
            axes.set_title("not recorded", fontsize=9)
        elif bad:
            axes.set_title(f"{bad} steps not finite", fontsize=9)
    norm.set_xlabel("step")
    for axes in (loss, lr, norm):
        axes.grid(alpha=0.3)
    path = Path(path)
    figure.savefig(path, format="png", metadata={"Software": None})
    return path


def running_mean(values: Sequence[float]) -> list[float]:
    """Exponential mean with decay 0.9, corrected for its start (Adam's way), so that the first value is itself."""
    smooth, total = [], 0.0
    for i, value in enumerate(values, start=1):
        total = _DECAY * total + (1 - _DECAY) * value
        smooth.append(total / (1 - _DECAY**i))
    return smooth


def _finite(records: Sequence[Mapping[str, float]], field: str) -> tuple[list[float], list[float], int]:
    """Steps and values of a field where it is a number, and how many records had it and were not."""
    pairs = [(float(r["step"]), float(r[field])) for r in records if field in r]
    good = [(s, v) for s, v in pairs if math.isfinite(v) and not (field == "grad_norm" and v < 0)]
    return [s for s, _ in good], [v for _, v in good], len(pairs) - len(good)
