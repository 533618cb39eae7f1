"""A line of the manifest whose text and files are in order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from pvtt_model.artifacts import canonical_json, digest


@dataclass(frozen=True)
class Truth:
    """The files of a clip's right edit; nothing is decoded yet."""

    product_id: str
    video_path: str  # here
    video_sha256: str
    mask_format: str  # 'video', 'png'
    mask_paths: tuple[str, ...]
    mask_sha256: tuple[str, ...]

    def content(self) -> list[Any]:
        return [self.product_id, self.video_sha256, self.mask_format, self.mask_sha256]


@dataclass(frozen=True)
class CheckedLine:
    """A line whose text and files are in order; nothing is decoded yet."""

    line: int  # from 1
    source: str  # video_path as given
    video_path: str  # where it is here
    video_sha256: str
    reference_paths: tuple[str, ...]
    reference_sha256: tuple[str, ...]
    mask_format: str  # 'video', 'png', 'none'
    mask_paths: tuple[str, ...]  # one mp4, or a PNG a frame, or none
    mask_sha256: tuple[str, ...]
    prompt: str
    metadata: dict[str, Any]
    product_id: str = field(default="")  # given, or 'ref-' and 12 digits of the first reference's hash
    truth: Truth | None = None

    @property
    def clip_key(self) -> str:
        """Names the clip: the first 20 hex digits of the video's hash, or of the hash of video and task."""
        task = self.metadata.get("benchmark_task")
        return self.video_sha256[:20] if task is None else digest("task", self.video_sha256, task)

    def said(self) -> list[Any]:
        """Everything the line says, less where it stands: a corrected line is a new one."""
        said = [self.video_sha256, self.reference_sha256, self.mask_format, self.mask_sha256, self.prompt, self.metadata]
        return said + ([self.truth.content()] if self.truth else [])

    def text(self) -> bytes:
        """`said` as canonical JSON, whose digest is the line's content (`content_of`)."""
        return canonical_json(self.said())


def content_of(text: bytes) -> str:
    """The digest by which a line is known, whatever its place: digest(*line.said())."""
    return hashlib.sha256(text).hexdigest()[:20]
