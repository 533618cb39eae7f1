"""The gate: thresholds against a report, each by the mean or an end of its 95 % bootstrap interval, as the recipe says (Threshold.bound).

What is not measured fails, and so does the bare name of a published metric where a stand-in was used.

Identity has no published judge that a bare name could be mistaken for: a gate on `identity_top1` takes identity_top1[the report's judge].
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pvtt_model.evaluation.confidence import LEAST_PAIRS
from pvtt_model.evaluation.report import Report
from pvtt_model.specs import GateSpec, Threshold

_OPS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


class Line(BaseModel):
    """One threshold judged. `got` None: not measured. bound: which figure of the metric `got` is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    metric: str
    op: str
    threshold: Annotated[float, Field(allow_inf_nan=False)]
    got: Annotated[float, Field(allow_inf_nan=False)] | None
    passed: bool
    why: str
    bound: Literal["mean", "low", "high"] = "mean"


class Verdict(BaseModel):
    """All thresholds of a stage's gate, in the recipe's order. passed: every line did; a gate without lines passes and says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    passed: bool
    lines: tuple[Line, ...]

    def missed(self) -> list[Line]:
        return [line for line in self.lines if not line.passed]

    def markdown(self) -> str:
        """The lines as a Markdown table."""
        if not self.lines:
            return f"Gate of stage `{self.stage}`: no thresholds, passed."
        head = "| metric | wanted | got | | why |\n|---|---|---|---|---|\n"
        return head + "\n".join(_row(line) for line in self.lines)

    def message(self) -> str:
        """One paragraph for the flow's final state."""
        if not self.lines:
            return f"Stage '{self.stage}' has no thresholds; its gate passes."
        if self.passed:
            return f"Stage '{self.stage}' passed its gate: " + "; ".join(f"{n.metric} {n.got:.4g} {n.op} {n.threshold:g}" for n in self.lines) + "."
        missed = self.missed()
        parts = [f"{n.metric} wanted {n.op} {n.threshold:g}, {n.why if n.got is None else f'got {n.got:.4g}'}" for n in missed]
        return f"Stage '{self.stage}' missed {len(missed)} of {len(self.lines)} thresholds: " + "; ".join(parts) + "."


def judge(report: Report, thresholds: GateSpec | Sequence[Threshold]) -> Verdict:
    """Hold a stage's report against its thresholds. The counts edits_done, edits_failed, edits_quarantined, edits_missing and checks_failed too."""
    wanted = thresholds.thresholds if isinstance(thresholds, GateSpec) else tuple(thresholds)
    lines = tuple(_line(report, threshold) for threshold in wanted)
    return Verdict(stage=report.stage, passed=all(line.passed for line in lines), lines=lines)


COUNTS = ("edits_done", "edits_failed", "edits_quarantined", "edits_missing", "checks_failed")


def _line(report: Report, wanted: Threshold) -> Line:
    bound = _bound(wanted)

    def line(got: float | None, passed: bool, why: str) -> Line:
        return Line(metric=wanted.metric, op=wanted.op, threshold=wanted.value, got=got, passed=passed, why=why, bound=bound)

    if wanted.metric in COUNTS:
        count = float(getattr(report, wanted.metric))
        of = f"{len(report.checks)} sanity checks" if wanted.metric == "checks_failed" else f"{report.edits} edits"
        return line(count, bool(_OPS[wanted.op](count, wanted.value)), f"count of {of}")
    metric = report.family(wanted.metric) if wanted.metric.startswith("identity_") else report.metric(wanted.metric)
    if metric is None:
        return line(None, False, _not_measured(report, wanted.metric))
    got = metric.value if bound == "mean" else getattr(metric, bound)
    if got is None or (bound != "mean" and metric.n < LEAST_PAIRS):
        why = f"the mean {metric.value:.4g} of {metric.n} edits has no interval to go by (it wants {LEAST_PAIRS}), and the gate is on its {bound} end"
        return line(None, False, f"not measured: {why}")
    passed = bool(_OPS[wanted.op](got, wanted.value))
    what = "mean" if bound == "mean" else f"{bound} end of the 95 % interval of the mean {metric.value:.4g}"
    return line(got, passed, f"{what} of {metric.n} edits" + (f"; worst {metric.worst}" if metric.worst and not passed else ""))


def _bound(wanted: Threshold) -> Literal["mean", "low", "high"]:
    """'safe' is the end that is harder to pass: the low one of what has to be above."""
    if wanted.bound == "safe":
        return "low" if wanted.op in (">", ">=") else "high"
    return wanted.bound


def _not_measured(report: Report, name: str) -> str:
    stand_ins = [m.name for m in report.metrics if m.name.startswith(f"{name}[")]
    if stand_ins:
        return f"not measured: {', '.join(stand_ins)} is of a stand-in and does not count as {name}; set the stage's extractor to the published one"
    if not report.metrics:
        return f"not measured: the report holds no metric, with {report.edits_done} of {report.edits} edits done"
    return f"not measured: the report holds {', '.join(m.name for m in report.metrics)}"


def _row(line: Line) -> str:
    got = "-" if line.got is None else f"{line.got:.4g}"
    return f"| `{_cell(line.metric)}` | {line.op} {line.threshold:g} | {got} | {'pass' if line.passed else '**miss**'} | {_cell(line.why)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
