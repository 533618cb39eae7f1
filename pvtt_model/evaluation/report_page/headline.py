"""What has to be read before any number: which edits are not there, which sanity checks failed, and the gate's outcome. In this order."""

from __future__ import annotations

from typing import NamedTuple

from pvtt_model.evaluation.gate import Verdict
from pvtt_model.evaluation.report import Report


class Said(NamedTuple):
    """One line of the headline. good None: nothing was judged."""

    good: bool | None
    text: str


def headline(report: Report, verdict: Verdict | None) -> list[Said]:
    """Edits, sanity checks, gate: three lines."""
    return [_edits(report), _checks(report), _gate(verdict)]


def _edits(report: Report) -> Said:
    if not report.edits:
        return Said(False, "No edit was made: nothing is measured.")
    counts = {"missing": report.edits_missing, "failed": report.edits_failed, "quarantined": report.edits_quarantined}
    lost = [f"{n} {word}" for word, n in counts.items() if n]
    if not lost:
        return Said(True, f"{report.edits_done} of {report.edits} edits: none is missing, failed or quarantined.")
    return Said(False, f"{report.edits_done} of {report.edits} edits: {', '.join(lost)}. They are not in the means.")


def _checks(report: Report) -> Said:
    by = {status: [c.name for c in report.checks if c.status == status] for status in ("failed", "cannot tell", "not run")}
    open_ = ", ".join(f"{len(names)} {status}" for status, names in by.items() if names and status != "failed")
    rest = f" ({open_})" if open_ else ""
    total = len(report.checks)
    if not total:
        return Said(None, "No sanity check is in this report.")
    if by["failed"]:
        return Said(False, f"{len(by['failed'])} of {total} sanity checks failed: {', '.join(by['failed'])}{rest}.")
    passed = sum(check.status == "passed" for check in report.checks)
    return Said(True if passed == total else None, f"{passed} of {total} sanity checks passed{rest}.")


def _gate(verdict: Verdict | None) -> Said:
    if verdict is None:
        return Said(None, "The gate is not judged on this page: it is in the gate's artifact.")
    if not verdict.lines:
        return Said(None, "The gate has no thresholds; it passes.")
    missed = verdict.missed()
    if not missed:
        return Said(True, f"Gate passed: {len(verdict.lines)} of {len(verdict.lines)} thresholds.")
    return Said(False, f"Gate missed: {len(missed)} of {len(verdict.lines)} thresholds, {', '.join(line.metric for line in missed)}.")
