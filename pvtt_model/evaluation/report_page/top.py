"""The page's first screen: the headline, the warnings, the gate, the sanity checks."""

from __future__ import annotations

from html import escape

from pvtt_model.evaluation.edit_scores import Check
from pvtt_model.evaluation.gate import Line, Verdict
from pvtt_model.evaluation.report import Report
from pvtt_model.evaluation.report_page.headline import headline
from pvtt_model.page import marked, number, table

BOUNDS = {"mean": "", "low": "lower end of the 95 % interval", "high": "upper end of the 95 % interval"}


def headline_html(report: Report, verdict: Verdict | None, name: str) -> str:
    lines = "".join(f"<li class='{_class(said.good)}'>{marked(said.good)}<span>{escape(said.text)}</span></li>" for said in headline(report, verdict))
    where = f" <code class='pale'>{escape(name)}</code>" if name else ""
    return f"<h1>Report of stage {escape(report.stage)}{where}</h1><ul class='headline'>{lines}</ul>"


def gate_html(verdict: Verdict) -> str:
    if not verdict.lines:
        return f"<p>{escape(verdict.message())}</p>"
    rows = [
        [f"<code>{escape(line.metric)}</code>", number(f"{line.op} {line.threshold:g}"), number("-" if line.got is None else f"{line.got:.4g}"),
         bound_of(line), marked(line.passed, "pass" if line.passed else "miss"), escape(line.why)]
        for line in verdict.lines
    ]  # fmt: skip
    return table(["metric", "wanted", "got", "judged on", "outcome", "why"], rows)


def bound_of(line: Line) -> str:
    """What the threshold was held against, where the recipe names a bound."""
    return BOUNDS.get(line.bound, "") or "mean"


def checks_html(report: Report) -> str:
    if not report.checks:
        return "<p class='pale'>No sanity check is in this report: it was made before there were any, or with none.</p>"
    order = {"failed": 0, "cannot tell": 1, "not run": 2, "passed": 3}
    rows = [_check(check) for check in sorted(report.checks, key=lambda check: order[check.status])]
    return table(["check", "outcome", "what was found", "edits"], rows)


def _check(check: Check) -> list[str]:
    good = {"passed": True, "failed": False}.get(check.status)
    clips = "".join(f"<code>{escape(clip)}</code> " for clip in check.clips[:8])
    more = f"and {len(check.clips) - 8} more" if len(check.clips) > 8 else ""
    return [f"<code>{escape(check.name)}</code>", marked(good, check.status), escape(check.said), clips + more]


def _class(good: bool | None) -> str:
    return "open" if good is None else "good" if good else "bad"
