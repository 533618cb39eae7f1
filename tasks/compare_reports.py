"""A new report held against the last release's, on the same edits: is it worse?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import task
from pydantic import BaseModel, ConfigDict

from infra.artifact_store import ArtifactStore
from infra.settings import settings
from pvtt_model.artifacts import ArtifactRef
from pvtt_model.specs import GateSpec
from tasks.policy import POLICY
from tasks.score_edits import REPORT
from tasks.ui import show_markdown

if TYPE_CHECKING:
    from pvtt_model.evaluation.compare import Comparison, Line
    from pvtt_model.evaluation.report import Report


class Compared(BaseModel):
    """What the flow decides by: why the new one is worse, a sentence each; none where it is not."""

    model_config = ConfigDict(frozen=True)

    worse: tuple[str, ...]
    said: str  # in one line


@task(task_run_name="compare with the last release", description="Paired bootstrap over the same edits", **POLICY)
def compare_reports(new: ArtifactRef, old: ArtifactRef, gate: GateSpec, tolerance: float, store: str) -> Compared:
    """Worse is what `why_worse` says. The whole comparison is shown in the UI."""
    from pvtt_model.evaluation.compare import compare
    from pvtt_model.evaluation.report import Report

    opened = ArtifactStore.open(store, settings(store).cache)
    ours, theirs = (Report.model_validate_json(opened.local_path(opened.manifest(ref).file(REPORT)).read_text()) for ref in (new, old))
    comparison = compare(ours, theirs)
    worse, deciding = why_worse(ours, theirs, comparison, gate, tolerance), deciding_lines(comparison, gate)
    verdict = "worse" if worse else "not worse"
    rule = f"Metrics that decide: {', '.join(line.metric for line in deciding) or 'none'} (those of the gate); a loss up to {tolerance:g} passes."
    text = f"## The new release is {verdict} than the last\n\nnew: `{new.name}`, old: `{old.name}`. {rule}\n\n{comparison.markdown()}"
    show_markdown("release-comparison", "\n\n".join([text, *worse]), verdict)
    said = "; ".join(f"{line.metric} {line.old:.4g} -> {line.new:.4g} ({_verdict(line, tolerance)}, {line.n} edits)" for line in deciding)
    return Compared(worse=tuple(worse), said=said)


def deciding_lines(comparison: Comparison, gate: GateSpec) -> list[Line]:
    """Those of metrics that the gate names. All others are shown and decide nothing: of twenty judged alone one would be worse by chance."""
    return [line for line in comparison.lines if _asked(line.metric, gate)]


def _asked(metric: str, gate: GateSpec) -> bool:
    """Whether the gate names it, with its bracket or without."""
    return any(threshold.metric in (metric, metric.partition("[")[0]) for threshold in gate.thresholds)


def why_worse(ours: Report, theirs: Report, comparison: Comparison, gate: GateSpec, tolerance: float) -> list[str]:
    """A deciding metric is worse by its 95 % interval and by more than `tolerance` of the last mean; or fewer edits were done; or nothing decides."""
    deciding = deciding_lines(comparison, gate)
    worse = [
        f"{line.metric} is worse: {line.new:.4g}, the last release {line.old:.4g}; difference {line.difference:+.4g}, 95 % {line.low:+.4g} to "
        f"{line.high:+.4g}, over {line.n} edits"
        for line in deciding
        if _verdict(line, tolerance) == "worse"
    ]
    if ours.edits_done < theirs.edits_done:
        worse.append(f"{ours.edits_done} of {ours.edits} edits were done, by the last release {theirs.edits_done} of {theirs.edits}")
    gone = [name for name in comparison.gone if _asked(name, gate)]
    if gone:
        worse.append(f"{', '.join(gone)}, which the gate names, was measured of the last release and not of this one")
    if not deciding:
        named = ", ".join(threshold.metric for threshold in gate.thresholds) or "no metric"
        worse.append(f"the gate names {named}, and none of it could be compared: nobody knows whether it is worse")
    return worse


def _verdict(line: Line, tolerance: float) -> str:
    small = line.verdict == "worse" and abs(line.difference) <= tolerance * abs(line.old)
    return "worse, within the tolerance" if small else line.verdict
