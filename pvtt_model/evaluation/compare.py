"""Two runs on the same edits: better, worse, or cannot tell, metric by metric, by paired bootstrap.

The differences of the same edit (clip and reference) in both runs are resampled (confidence.py): what all edits share, easy or hard clips, falls
out, so a small change is seen that two separate intervals would hide. Better or worse is said where the 95 % interval of the mean difference
leaves 0 out; with fewer than LEAST_PAIRS edits never.
Each metric is judged alone: of 20 metrics without any true difference about one will be called better or worse.
"""

from __future__ import annotations

import statistics
from typing import Literal, NamedTuple

from pvtt_model.evaluation.confidence import paired
from pvtt_model.evaluation.report import Report

Verdict = Literal["better", "worse", "cannot tell"]


class Line(NamedTuple):
    """One metric in both runs, over the n edits that have it in both."""

    metric: str
    direction: str
    n: int
    new: float
    old: float
    difference: float  # mean of new - old
    low: float  # 95 % interval of the difference
    high: float
    verdict: Verdict


class Comparison(NamedTuple):
    lines: tuple[Line, ...]
    left_out: tuple[str, ...]  # why a metric or an edit could not be compared
    gone: tuple[str, ...] = ()  # metrics that the old run has and the new one has not

    def of(self, verdict: Verdict) -> list[Line]:
        return [line for line in self.lines if line.verdict == verdict]

    def worse(self) -> list[Line]:
        return self.of("worse")

    def better(self) -> list[Line]:
        return self.of("better")

    def markdown(self) -> str:
        """The lines as a Markdown table, and what was left out."""
        head = "| metric | new | old | difference | 95 % | N | verdict |\n|---|---|---|---|---|---|---|\n"
        rows = [
            f"| `{x.metric}` | {x.new:.4g} | {x.old:.4g} | {x.difference:+.4g} | {x.low:+.4g} to {x.high:+.4g} | {x.n} | {_marked(x.verdict)} |"
            for x in self.lines
        ]
        return head + "\n".join(rows) + "".join(f"\n\n- {why}" for why in self.left_out)


def compare(new: Report, old: Report) -> Comparison:
    """Every metric that has a better direction, over the edits that both runs scored.

    Metrics whose names differ by the extractor are different metrics: they are left out, with the reason. Figures of a whole set (fvd, fid,
    weighted_score) have no pairs and are left out too.
    """
    pairs = {(e.clip_key, e.reference_key): e for e in old.per_edit if e.status == "done"}
    done = [e for e in new.per_edit if e.status == "done"]
    both = [(e, pairs[key]) for e in done if (key := (e.clip_key, e.reference_key)) in pairs]
    left_out = []
    if len(both) < max(len(done), len(pairs)):
        left_out.append(f"Of {len(done)} edits of the new run and {len(pairs)} of the old, {len(both)} are of the same clip and reference.")
    names = [m.name for m in new.metrics if m.direction != "context" and any(m.name in e.scores for e in new.per_edit)]
    absent = [name for name in names if old.metric(name) is None]
    if absent:
        left_out.append(f"The old run does not hold {', '.join(absent)}: another extractor, or not measured there.")
    gone = _gone(new, old)
    if gone:
        left_out.append(f"The new run does not hold {', '.join(gone)}, which the old one has.")
    unlike = [name for name in names if _otherwise(name, new, old)]
    if unlike:
        left_out.append(f"Measured otherwise in the two runs (weights, crops or candidates), so not compared: {', '.join(unlike)}.")
    lines = []
    for name in [name for name in names if name not in unlike]:
        values = [(a, b) for a, b in ((one.scores.get(name), other.scores.get(name)) for one, other in both) if a and b]
        numbers = [(a.value, b.value) for a, b in values if a.value is not None and b.value is not None]
        if numbers:
            lines.append(_line(name, values[0][0].direction, numbers))
    return Comparison(tuple(lines), tuple(left_out), tuple(gone))


def _gone(new: Report, old: Report) -> list[str]:
    return [m.name for m in old.metrics if m.direction != "context" and any(m.name in e.scores for e in old.per_edit) and new.metric(m.name) is None]


#: Settings, beside the extractor, without which a metric's figures are not of one kind.
_SETTINGS = {"identity_": ("judge", "candidates"), "clip_i": ("clip", "crop_margin"), "dino_i": ("dino", "crop_margin"), "clip_t": ("clip",),
             "edit_direction": ("clip",), "structure_distance": ("dino",), "warp_error": ("flow",), "bg_lpips": ("lpips",)}  # fmt: skip


def _otherwise(name: str, new: Report, old: Report) -> bool:
    """Both runs hold it, by other weights or other rules."""
    mine, theirs = new.metric(name), old.metric(name)
    if mine is None or theirs is None:
        return False
    asked = next((fields for start, fields in _SETTINGS.items() if name.startswith(start)), ())
    return mine.extractor != theirs.extractor or any(new.extractors.get(field) != old.extractors.get(field) for field in asked)


def _line(name: str, direction: str, pairs: list[tuple[float, float]]) -> Line:
    found = paired([a - b for a, b in pairs])
    gain = found.sign if direction == "higher" else -found.sign
    verdict: Verdict = "better" if gain > 0 else "worse" if gain < 0 else "cannot tell"
    new, old = (statistics.fmean(side) for side in zip(*pairs, strict=True))
    return Line(name, direction, found.n, new, old, found.mean, found.low, found.high, verdict)


def _marked(verdict: Verdict) -> str:
    return verdict if verdict == "cannot tell" else f"**{verdict}**"
