"""The one interface to object storage. Two backends: a local folder and S3. Keys are relative, '/'-separated, without '..'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class ObjectMissing(KeyError):
    """No object under that key."""


class StoreRefused(RuntimeError):
    """The server cannot keep what the artifacts rely on, e.g. it ignores conditional puts."""


class ObjectInfo(NamedTuple):
    key: str
    bytes: int
    modified_s: float  # seconds since the epoch, by the store's clock


class ObjectStore(Protocol):
    uri: str
    at_once: int  # small requests that are worth having in flight: 1 of a folder, which answers in microseconds

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write or overwrite one small object."""

    def put_file(self, key: str, path: str | Path) -> None:
        """Write or overwrite from a file of any size (multipart on S3)."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object atomically. True: this call made it. False: it was there, with other bytes.

        An object already there with exactly `data` counts as made by this call (a retry after a swallowed acknowledgement),
        so callers who race must write distinct bytes: a manifest carries a commit_id. An unknown outcome is settled by reading back.
        """

    def get_bytes(self, key: str) -> bytes:
        """Raises ObjectMissing."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`: one request. Raises ObjectMissing; ValueError where the object ends before."""

    def get_file(self, key: str, path: str | Path) -> None:
        """Download to `path`, which appears whole or not at all. Raises ObjectMissing."""

    def exists(self, key: str) -> bool: ...

    def stat(self, key: str) -> ObjectInfo | None:
        """Its size and age; None where there is no object under that key."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in key order."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete; a missing key is not an error."""

    def touch(self, key: str) -> None:
        """Set the modified time to now, so that gc's grace starts anew for an old object about to be used. Raises ObjectMissing."""


def asked(store: ObjectStore, function: Callable[[T], R], of: Sequence[T]) -> list[R]:
    """[function(item) for item in of], as many at once as the store is worth; function asks the store, and changes nothing that others read. The
    first error is raised."""
    if store.at_once == 1 or len(of) < 2:
        return [function(item) for item in of]
    with ThreadPoolExecutor(min(store.at_once, len(of)), thread_name_prefix="ask-store") as pool:
        return list(pool.map(function, of))


def whole_range(data: bytes, key: str, offset: int, length: int) -> bytes:
    """`data`, where it is of that length. Raises ValueError."""
    if len(data) != length:
        raise ValueError(f"{key} gave {len(data)} of {length} bytes from {offset}: the object is shorter than its record says.")
    return data
