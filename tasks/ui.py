"""What a person sees in the Prefect UI: tables, pictures, progress. Never needed for the run to be right, so a failure here is only logged."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

MOST_ROWS = 200


def show_markdown(key: str, markdown: str, description: str) -> None:
    """A Markdown artifact under `key` (lower case, dashes): the UI keeps its history."""
    try:
        create_markdown_artifact(markdown, key=key, description=description)
    except Exception as error:
        get_run_logger().warning("artifact '%s' could not be shown: %s", key, error)


def picture(path: Path, alt: str, width: int = 1100) -> str:
    """Markdown of a picture, carried inside as JPEG, at most `width` pixels wide."""
    image = Image.open(path).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    return f"![{alt}](data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()})"


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str], of: int | None = None) -> str:
    """A Markdown table of the first MOST_ROWS rows, saying how many were left out; of: how many there are, where `rows` are the first of them."""
    if not rows:
        return "(none)"
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows[:MOST_ROWS]]
    left = (len(rows) if of is None else of) - MOST_ROWS
    if left > 0:
        lines.append(f"\n{left} more rows are in the artifact's file.")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


class Progress:
    """A Prefect progress artifact, at most one update a second, and a log line every ten; with the rate and the time left."""

    def __init__(self, key: str, what: str, of: str = "") -> None:
        self.of = f" {of}" if of else ""  # what is counted
        self.what, self.id, self.sent_s, self.logged_s = what, None, 0.0, time.monotonic()
        self.first: tuple[float, float] | None = None  # when, and how far, at the first call: what was there before is no pace
        try:
            created = create_progress_artifact(progress=0.0, key=key, description=what)
            self.id = created if isinstance(created, UUID) else None
        except Exception as error:
            get_run_logger().warning("progress of '%s' cannot be shown: %s", what, error)

    def at(self, done: float, total: float, note: str = "") -> None:
        """`done` of `total`."""
        now = time.monotonic()
        self.first = self.first or (now, done)
        note = f"{pace(now - self.first[0], done - self.first[1], total - done)} {note}".strip()
        if done < total and now - self.sent_s < 1:
            return
        self.sent_s = now
        percent = min(100.0, 100.0 * done / total) if total else 100.0
        if self.id is not None:
            try:
                update_progress_artifact(self.id, percent, description=f"{self.what}: {done:g} of {total:g}{self.of} {note}".strip())
            except Exception as error:
                get_run_logger().warning("progress of '%s' cannot be shown: %s", self.what, error)
                self.id = None
        if now - self.logged_s >= 10 or done >= total:
            self.logged_s = now
            get_run_logger().info("%s: %g of %g%s %s", self.what, done, total, self.of, note)


def pace(seconds: float, done: float, left: float) -> str:
    """'2.5/s, 40 s left'; nothing where nothing is done yet, and no time left where all is."""
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    many = f"{rate:.2g}/s" if rate >= 0.1 else f"{60 * rate:.2g}/min"
    return many if left <= 0 else f"{many}, {_span(left / rate)} left"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
