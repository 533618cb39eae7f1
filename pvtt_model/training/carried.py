"""What a stage takes over from the one before, tensor by tensor, and why the rest is not. Light: no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pvtt_model.training.trained_tensors import PROBE, part_of, plain

Shapes = Mapping[str, tuple[int, ...]]


class Carried(NamedTuple):
    """loaded: its values are those of the stage before. fresh: this stage starts it anew. unused: the stage before had it, this one has not."""

    name: str
    fate: Literal["loaded", "fresh", "unused"]
    reason: str = ""


def carried_over(here: Shapes, before: Shapes) -> list[Carried]:
    """The fate of every tensor of the parts (LoRA, adapter, ...) that the stage before left. Shapes by a teacher's names."""
    given = {plain(name): tuple(shape) for name, shape in before.items()}
    parts = {part_of(name) for name in given}
    own = {plain(name): tuple(shape) for name, shape in here.items() if part_of(name) in parts and not name.startswith(PROBE)}
    found = []
    for name in sorted(own.keys() | given.keys()):
        if own.get(name) == given.get(name):
            found.append(Carried(name, "loaded"))
        elif name not in given:
            found.append(Carried(name, "fresh", "the stage before has no such tensor"))
        elif name not in own:
            found.append(Carried(name, "unused", "this stage has no such tensor"))
        else:
            found.append(Carried(name, "fresh", f"another size: {_size(given[name])} there, {_size(own[name])} here"))
    return found


def carried_rows(carried: Sequence[Carried]) -> list[dict[str, Any]]:
    """A table: tensors alike but for the number of their block are one row, with how many they are."""
    alike = Counter((re.sub(r"(?<=\.)\d+(?=\.)", "*", c.name), c.fate, c.reason) for c in carried)
    order = {"loaded": 0, "fresh": 1, "unused": 2}
    rows = sorted(alike.items(), key=lambda item: (order[item[0][1]], item[0]))
    return [{"tensors": name, "fate": fate, "count": count, "reason": reason} for (name, fate, reason), count in rows]


def carried_counts(carried: Sequence[Carried]) -> dict[str, Any]:
    """How many of each fate; and of what was not loaded, how many for each reason in general."""
    counts: dict[str, Any] = {fate: sum(c.fate == fate for c in carried) for fate in ("loaded", "fresh", "unused")}
    return counts | {"why": dict(Counter(f"{c.fate}: {c.reason.split(':')[0]}" for c in carried if c.reason))}


def as_text(carried: Sequence[Carried], most: int = 40) -> str:
    """For a log: the counts, then a line for each group that was not loaded."""
    counts, rows = carried_counts(carried), [row for row in carried_rows(carried) if row["reason"]]
    lines = [f"of the stage before {counts['loaded']} tensors are taken over; {counts['fresh']} start fresh, {counts['unused']} are not used"]
    lines += [f"  {row['fate']:<7} {row['count']:>4} x {row['tensors']}: {row['reason']}" for row in rows[:most]]
    return "\n".join([*lines, *([f"  and {len(rows) - most} more kinds, in carried_over.json"] if len(rows) > most else [])])


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
