"""The lines of a scan. Of one that an earlier scan left in its memory only the brief is held; the rest is read again when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

from pvtt_model.data.checked_line import CheckedLine

Kept = tuple[int, int]  # where in the memory it lies: offset, bytes


class Brief(NamedTuple):
    """What is asked of every line, new or not."""

    line: int
    source: str
    clip_key: str
    video_sha256: str
    product_id: str
    split: str | None
    task: str | None


def brief_of(line: CheckedLine) -> Brief:
    metadata = line.metadata
    return Brief(line.line, line.source, line.clip_key, line.video_sha256, line.product_id, metadata.get("split"), metadata.get("benchmark_task"))


class Lines(Sequence[CheckedLine]):
    """CheckedLines in the order in which they were added. read: (line's number, where it is kept) -> the line."""

    def __init__(self, read: Callable[[int, Kept], CheckedLine]) -> None:
        self.brief: list[Brief] = []
        self._its: list[CheckedLine | Kept] = []
        self._read = read

    def add(self, brief: Brief, its: CheckedLine | Kept) -> None:
        self.brief.append(brief)
        self._its.append(its)

    def __len__(self) -> int:
        return len(self._its)

    @overload
    def __getitem__(self, at: int) -> CheckedLine: ...
    @overload
    def __getitem__(self, at: slice) -> list[CheckedLine]: ...
    def __getitem__(self, at: int | slice) -> CheckedLine | list[CheckedLine]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        its = self._its[at]
        return its if isinstance(its, CheckedLine) else self._read(self.brief[at].line, its)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Lines) and len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]
