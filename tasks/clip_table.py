"""Reading back what curation wrote about its clips: which lies where, which is held out, which can be used."""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from infra.artifact_store import ArtifactStore
from infra.settings import settings
from pvtt_model.artifacts import ArtifactRef, Manifest
from tasks.edit_work import ClipPlace
from tasks.ui import Progress

TABLE = "table.json"


class Curated(NamedTuple):
    """The four artifacts that training and editing read."""

    clips: ArtifactRef
    masks: ArtifactRef
    latents: ArtifactRef
    conditions: ArtifactRef


def read_json(store: ArtifactStore, manifest: Manifest, name: str = TABLE) -> Any:
    """A JSON file of an artifact, hash checked; the caller's to sort and to add to, not its rows to change: five steps read the same tables."""
    file = manifest.file(name)
    if file.sha256 not in _TABLES:  # a number of more than 64 bits comes back as a float
        _remember(file.sha256, orjson.loads(store.local_path(file).read_bytes()))
    _TABLES.move_to_end(file.sha256)
    value = _TABLES[file.sha256]
    return list(value) if isinstance(value, list) else value


#: By content, what was read or written last: a version's four tables and those of the version before.
_TABLES: OrderedDict[str, Any] = OrderedDict()
MOST_TABLES = 8


def _remember(sha256: str, value: Any) -> None:
    _TABLES[sha256] = value
    while len(_TABLES) > MOST_TABLES:
        _TABLES.popitem(last=False)


def attach_json(store: ArtifactStore, planned: Any, name: str, value: Any) -> Any:
    """A JSON file attached to a planned artifact, a list with a line a row; returns its StoredFile. The rows are not the caller's any more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "value.json"
        is_table = isinstance(value, list)
        with path.open("wb") as out:
            out.writelines(_lines(value) if is_table else (_dumped(value),))
        file = store.attach(planned, name, path)
        if is_table:  # it is read by the next step
            _remember(file.sha256, list(value))
        return file


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


def map_units(store: ArtifactStore, function: Any, units: list[Any], *, kind: str, what: str, num_gpus: float = 0) -> list[Any]:
    """Every unit's record: found ones at once, the others made on Ray; with progress in clips, and how many were refused so far."""
    found = {i: store.find_derived(kind, unit.key) for i, unit in enumerate(units)}
    missing = [i for i, record in found.items() if record is None]
    clips = {unit.key: getattr(unit, "clips", 1) for unit in units}
    progress = Progress(f"progress-{kind}", what, "clips")
    there = [record for record in found.values() if record is not None]
    finished, refused, total = sum(clips[r.key] for r in there), sum(map(_refused, there)), sum(clips.values())
    progress.at(finished, total, f"({refused} refused)" if refused else "")
    if missing:
        from infra.ray_launch import map_on_ray, must_fit, start_ray

        where = settings(store.store.uri)
        start_ray(where)
        must_fit(1, num_gpus, what, where)

        def on_result(_: int, record: Any) -> None:
            nonlocal finished, refused
            finished, refused = finished + clips[record.key], refused + _refused(record)
            progress.at(finished, total, f"({refused} refused)" if refused else "")

        made = map_on_ray(function, [units[i] for i in missing], name=what, settings=where, num_gpus=num_gpus, on_result=on_result)
        found.update(zip(missing, made, strict=True))
    return [found[i] for i in range(len(units))]


def rows_of_clips(store: ArtifactStore, clips: Manifest, records: Sequence[Any], kind: str) -> list[dict[str, Any]]:
    """What the records, one a shard, say of the clips in the table: a shard may hold rows of clips that were refused, removed or corrected later."""
    there = {(fact["shard"], fact["row"]) for fact in read_json(store, clips)}
    return [row for shard, record in enumerate(records) for i, row in enumerate(record.summary[kind]) if (shard, i) in there]


def first_clips(store: ArtifactStore, clips: Manifest) -> list[dict[str, Any]]:
    """The facts of the clips in the table, as they lie in the shards: what is shown of them is read in this order."""
    return sorted(read_json(store, clips), key=lambda fact: (fact["shard"], fact["row"]))


def _refused(record: Any) -> int:
    """Rows of a finished unit that cannot be used: refusals at ingest, unusable masks, latents, conditions."""
    tables = [table for table in record.summary.values() if isinstance(table, list)]
    return len(record.summary.get("refusals", [])) + sum(row.get("usable") is False for table in tables for row in table)


def clip_places(store: ArtifactStore, curated: Curated) -> dict[str, tuple[ClipPlace, dict[str, Any]]]:
    """clip_key -> (where its rows lie, its facts: split, product_id, prompt, quality, ...) of every clip usable in all artifacts."""
    manifests = [store.manifest(ref) for ref in curated]
    shards = [m.shards() for m in manifests]
    usable: dict[str, dict[str, Any]] = {}
    for row in read_json(store, manifests[1]):
        usable[row["clip_key"]] = row
    refused = {row["clip_key"] for m in manifests[1:] for row in read_json(store, m) if not row["usable"]}
    places = {}
    for fact in read_json(store, manifests[0]):
        key, shard = fact["clip_key"], fact["shard"]
        if key not in refused:
            files = [by_kind[shard] for by_kind in shards]
            places[key] = (ClipPlace(key, fact["row"], *files), fact | {"quality": usable[key]["quality"]})
    return places
