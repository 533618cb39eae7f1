"""What kind of failure an error is, which says whether trying again can mend it.

transient   a lost worker, the network, a store or server that is away: tried again, later each time
data        wrong settings or refused data, a missing file, a loss that is not finite, a gate: a person must change something
memory      it does not fit in memory, or on the disk: it would not fit the next time either
bug         the code is wrong
"""

from __future__ import annotations

import errno
from typing import Literal

from infra.store.base import ObjectMissing, StoreRefused

Kind = Literal["transient", "data", "memory", "bug"]

#: Bugs that are types of what else is data or transient stand first.
BUG = (
    AttributeError, NameError, ImportError, SyntaxError, AssertionError, IndexError, ZeroDivisionError, NotImplementedError, RecursionError,
    TypeError,
)  # fmt: skip
DATA = (ValueError, KeyError, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FloatingPointError, StoreRefused)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)


class WorkerLost(RuntimeError):
    """Ray could not finish the work: workers died more often than allowed, or the cluster is gone. Trying again resumes."""


class TrainingFailed(ValueError):
    """A training worker's error of which Ray told, that no restart can mend. `kind` is the worker's finding."""

    def __init__(self, text: str, kind: Kind = "data") -> None:
        super().__init__(text)
        self.kind = kind


def kind_of(error: BaseException) -> Kind:
    """The kind of an error, as it was raised. What is not known is transient: it is tried again, a few times."""
    if isinstance(error, TrainingFailed):
        return error.kind
    if isinstance(error, ObjectMissing):  # a KeyError, but a file that gc took can be made again
        return "transient"
    if _does_not_fit(error):
        return "memory"
    if isinstance(error, BUG):
        return "bug"
    if isinstance(error, DATA):
        return "data"
    return "transient"


def can_pass(error: BaseException) -> bool:
    """Whether trying again may help."""
    return kind_of(error) == "transient"


def _does_not_fit(error: BaseException) -> bool:
    """By name, so that neither torch nor Ray is loaded. Ray's own OutOfMemoryError is not meant: it says that a whole machine was full, perhaps
    of others' work."""
    if isinstance(error, OSError):
        return error.errno in FULL
    named = {(c.__module__.partition(".")[0], c.__name__) for c in type(error).__mro__}
    return isinstance(error, MemoryError) or bool(named & {("torch", "OutOfMemoryError"), ("pvtt_model", "DoesNotFit")})
