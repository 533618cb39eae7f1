"""What a check found. No torch in here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "skipped"]


class PreflightFailed(ValueError):
    """A check failed: trying again cannot mend it. The message is the table of what failed and what was warned of."""


@dataclass(frozen=True)
class Check:
    """One line of the table. what: what was looked at or wanted; got: what was found; cure: what to do about it, empty where nothing is."""

    name: str
    status: Status
    what: str
    got: str
    cure: str = ""


def failures(checks: Iterable[Check]) -> list[Check]:
    return [c for c in checks if c.status == "fail"]


def warnings(checks: Iterable[Check]) -> list[Check]:
    return [c for c in checks if c.status == "warn"]


def as_lines(checks: Iterable[Check]) -> str:
    """A line a check: FAIL name: what; got ... Cure."""
    return "\n".join(f"{c.status.upper():<7} {c.name}: {c.what}; got {c.got}." + (f" {c.cure}" if c.cure else "") for c in checks)


def refuse(checks: Sequence[Check], doing: str) -> None:
    """Raises PreflightFailed where a check failed."""
    failed = failures(checks)
    if failed:
        raise PreflightFailed(
            f"{doing} was not started: {len(failed)} of {len(checks)} checks failed.\n{as_lines([*failed, *warnings(checks)])}\n"
            "`pvtt doctor --recipe ...` shows them all; PVTT_PREFLIGHT=warn starts in spite of them."
        )


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
