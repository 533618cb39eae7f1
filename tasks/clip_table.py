"""Reading back what curation wrote about its clips: which lies where, which is held out, which can be used."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

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
    """A JSON file of an artifact, hash checked."""
    return json.loads(store.local_path(manifest.file(name)).read_text())


def attach_json(store: ArtifactStore, planned: Any, name: str, value: Any) -> Any:
    """A JSON file attached to a planned artifact; returns its StoredFile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "value.json"
        path.write_text(json.dumps(value, indent=1))
        return store.attach(planned, name, path)


def map_units(store: ArtifactStore, function: Any, units: list[Any], *, kind: str, what: str, num_gpus: float = 0) -> list[Any]:
    """Every unit's record: found ones at once, the others made on Ray; with progress."""
    found = {i: store.find_derived(kind, unit.key) for i, unit in enumerate(units)}
    missing = [i for i, record in found.items() if record is None]
    progress = Progress(f"progress-{kind}", what)
    progress.at(len(units) - len(missing), len(units))
    if missing:
        from infra.ray_launch import map_on_ray, must_fit, start_ray

        start_ray(settings(store.store.uri))
        must_fit(1, num_gpus, what, settings(store.store.uri))
        made = map_on_ray(
            function, [units[i] for i in missing], name=what, num_gpus=num_gpus,
            on_result=lambda done, _: progress.at(len(units) - len(missing) + done, len(units)),
        )  # fmt: skip
        found.update(zip(missing, made, strict=True))
    return [found[i] for i in range(len(units))]


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
