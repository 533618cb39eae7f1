"""Reading back what curation wrote about its clips: which lies where, which is held out, which can be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from infra.artifact_store import ArtifactStore
from infra.settings import settings
from infra.store.base import asked
from pvtt_model.artifacts import ArtifactRef, Manifest
from tasks.edit_work import ClipPlace
from tasks.pieces import find_unit, reasons, rows_beside, whole_facts
from tasks.tables import read_json
from tasks.ui import Progress


class Curated(NamedTuple):
    """The four artifacts that training and editing read."""

    clips: ArtifactRef
    masks: ArtifactRef
    latents: ArtifactRef
    conditions: ArtifactRef


def map_units(
    store: ArtifactStore,
    function: Any,
    units: list[Any],
    *,
    kind: str,
    what: str,
    num_gpus: float = 0,
    meanwhile: Callable[[Sequence[Any]], object] = len,
) -> list[Any]:
    """Every unit's record: found ones at once, the others made on Ray; with progress in clips, and how many were refused so far.

    meanwhile(found records): what can be prepared while Ray works, in a thread; not called where all records are found.
    """
    found: list[Any] = asked(store.store, lambda unit: find_unit(store, kind, unit.key), units)
    missing = [i for i, record in enumerate(found) if record is None]
    clips = {unit.key: getattr(unit, "clips", 1) for unit in units}
    progress = Progress(f"progress-{kind}", what, "clips")
    there = [record for record in found if record is not None]
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

        with ThreadPoolExecutor(1, thread_name_prefix="meanwhile") as thread:
            prepared = thread.submit(meanwhile, there)
            made = map_on_ray(function, [units[i] for i in missing], name=what, settings=where, num_gpus=num_gpus, on_result=on_result)
            prepared.result()
        for i, record in zip(missing, made, strict=True):
            found[i] = record
    return found


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
    return len(record.summary.get("refusals", [])) + sum(isinstance(row, dict) and row.get("usable") is False for table in tables for row in table)


def clip_places(store: ArtifactStore, curated: Curated) -> dict[str, tuple[ClipPlace, dict[str, Any]]]:
    """clip_key -> (where its rows lie, its facts: split, product_id, prompt, quality, ...) of every clip usable in all artifacts."""
    manifests = [store.manifest(ref) for ref in curated]
    shards = [m.shards() for m in manifests]
    refused = {row["clip_key"] for m in manifests[1:] for row in reasons(store, m) if not row["usable"]}
    facts = [fact for fact in read_json(store, manifests[0]) if fact["clip_key"] not in refused]
    quality: dict[str, Any] = {}
    for rows in rows_beside(store, manifests[1], facts):
        quality |= {row["clip_key"]: row["quality"] for row in rows}
    places = {}
    for fact in whole_facts(store, manifests[0], facts):
        key = fact["clip_key"]
        files = [by_kind[fact["shard"]] for by_kind in shards]
        places[key] = (ClipPlace(key, fact["row"], *files), fact | {"quality": quality[key]})
    return places
