"""Inode, size and dates of many files, asked for in a second process.

Most of what it costs to see that nothing has changed is a question to the kernel for each file, and Python's lock lets one thread of a process ask
at a time. So a child asks, while its parent reads what it will hold the answers against.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from pvtt_model.data.stamp_worker import STAMP, stamps_of

WORKER = Path(__file__).with_name("stamp_worker.py")
FEW = 2000  # files that are sooner asked for here than a child is started
SHARE = 0.7  # of the files, the child's: its parent has other work


class FileStamps:
    """One question at a time: `ask`, other work, `answer`. A child that dies costs its help, no more. Not for two threads."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._childs, self._own = "", ""  # files that are asked for, by whom

    def __enter__(self) -> FileStamps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def ask(self, groups: Sequence[str]) -> None:
        """Of these files: absolute paths with NUL between them, some in each string. Before the next `ask` comes an `answer`."""
        cut = round(SHARE * len(groups)) if sum(map(count, groups)) >= FEW else 0
        self._childs, self._own = "\0".join(groups[:cut]), "\0".join(groups[cut:])
        if not self._childs:
            return
        try:
            self._child = self._child or subprocess.Popen(
                [sys.executable, "-I", "-S", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            data = os.fsencode(self._childs)
            assert self._child.stdin is not None
            self._child.stdin.write(b"%d\n" % len(data) + data)
            self._child.stdin.flush()
        except (OSError, ValueError):  # no memory for a process, or it was killed
            self._end()

    def answer(self) -> bytes:
        """STAMP bytes a path, one behind the other: stamp_worker.stamp_of."""
        own = _stamps(self._own)
        if self._child is not None and self._child.stdout is not None and self._childs:
            wanted = STAMP * count(self._childs)
            found = self._child.stdout.read(wanted)
            if len(found) == wanted:
                return found + own
            self._end()
        return _stamps(self._childs) + own

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def count(paths: str) -> int:
    """How many there are, with NUL between them."""
    return paths.count("\0") + 1 if paths else 0


def _stamps(paths: str) -> bytes:
    return stamps_of(paths.split("\0")) if paths else b""
