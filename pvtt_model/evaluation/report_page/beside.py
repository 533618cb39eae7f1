"""What the page shows beside the Report: videos, earlier reports, lineage, settings. Whoever has the store gathers it (tasks/report_page.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pvtt_model.evaluation.report import Metric


class Video(NamedTuple):
    label: str  # e.g. source
    mp4: Path
    poster: Path  # a JPEG of its first frame


class Seen(NamedTuple):
    """What there is to see of one edit: videos of one size, rate and length, and the reference picture (PNG or JPEG)."""

    videos: tuple[Video, ...]
    reference: Path | None
    fps: float
    frames: int

    @property
    def bytes(self) -> int:
        """As they lie, before base64 makes a third more of them."""
        paths = [path for video in self.videos for path in (video.mp4, video.poster)] + ([self.reference] if self.reference else [])
        return sum(path.stat().st_size for path in paths)


class Past(NamedTuple):
    """An earlier report: of a stage before this one, or of an earlier release's last stage."""

    kind: Literal["release", "stage"]
    label: str  # short, for the chart: the stage's name, or the release's day
    title: str  # whole, for who points at it
    metrics: Mapping[str, Metric]


class Origin(NamedTuple):
    """One artifact that this report was made from."""

    name: str
    created: str
    commit: str


class Beside(NamedTuple):
    name: str = ""  # the artifact's, kind/version
    seen: Mapping[tuple[str, str], Seen] = {}  # by clip and reference key
    past: tuple[Past, ...] = ()  # oldest first, without this report
    lineage: tuple[Origin, ...] = ()
    libraries: Mapping[str, str] = {}
    settings: Mapping[str, Any] = {}  # by title: JSON values
    get_videos: str = ""  # the command that copies every edit's videos out of the store
