"""JSON of an artifact: tables, a line a row, read once a process. No Prefect in here: workers write some of them."""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import Manifest, StoredFile

TABLE = "table.json"


def read_json(store: ArtifactStore, manifest: Manifest, name: str = TABLE, keep: bool = True) -> Any:
    """A JSON file of an artifact, hash checked; the caller's to sort and to add to, not its rows to change: five steps read the same tables.

    keep: remember it for the next step.
    """
    file = manifest.file(name)
    value = _TABLES.get(file.sha256)
    if value is None:  # a number of more than 64 bits comes back as a float
        value = orjson.loads(store.local_path(file).read_bytes())
    if keep:
        _remember(file.sha256, value)
    return list(value) if isinstance(value, list) else value


#: By content, what was read or written last.
_TABLES: OrderedDict[str, Any] = OrderedDict()
MOST_TABLES = 8


def _remember(sha256: str, value: Any) -> None:
    _TABLES[sha256] = value
    _TABLES.move_to_end(sha256)
    while len(_TABLES) > MOST_TABLES:
        _TABLES.popitem(last=False)


def attach_json(store: ArtifactStore, planned: Any, name: str, value: Any) -> Any:
    """A JSON file attached to a planned artifact, a list with a line a row; returns its StoredFile. The rows are not the caller's any more."""
    with tempfile.TemporaryDirectory() as folder:
        path = _written(value, folder)
        file = store.attach(planned, name, path)
        if isinstance(value, list):  # it is read by the next step
            _remember(file.sha256, list(value))
        return file


def pool_json(store: ArtifactStore, name: str, value: Any) -> StoredFile:
    """A JSON file pooled by content, a list with a line a row."""
    with tempfile.TemporaryDirectory() as folder:
        return store.pool(_written(value, folder), name)


def _written(value: Any, folder: str) -> Path:
    path = Path(folder) / "value.json"
    with path.open("wb") as out:
        out.writelines(_lines(value) if isinstance(value, list) else (_dumped(value),))
    return path


def _lines(rows: list[Any]) -> Iterator[bytes]:
    """JSON of a list, a line a row."""
    for i, row in enumerate(rows):
        yield (b",\n " if i else b"[") + _dumped(row)
    yield b"]" if rows else b"[]"


def _dumped(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a number of more than 64 bits, which a manifest may hold
        return json.dumps(value).encode()
