"""One small run of the whole curriculum, the moments at which it is cut off, and what must not have changed when it is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from infra.artifact_store import ArtifactStore
from infra.store import open_store
from infra.store.base import ObjectMissing
from pvtt_model.artifacts import Manifest
from pvtt_model.recipes import recipe_by_name

RUN_TIMEOUT_S = 900.0
STEPS, EVERY = 60, 5
CURATED = ("clips", "masks", "latents", "conditions")


def parameters(store: str) -> dict[str, Any]:
    """Nano's first stage, its models and its mask variants, on 12 clips in 6 shards: 8 to train on, 4 held out, 3 edited; a gate that all pass."""
    stage = recipe_by_name("nano").stages[0].model_dump(mode="json")
    stage["train"] |= {"steps": STEPS, "checkpoint_every_steps": EVERY}
    stage["parallel"] |= {"micro_batch": 2}
    stage["edit"] |= {"num_steps": 12, "max_clips": 3, "baselines": []}
    stage["gate"] = {"thresholds": [{"metric": "bg_psnr_composited_db", "op": ">", "value": 0.0}], "on_failure": "stop"}
    world = {"world.num_clips": 8, "world.num_validation": 0, "world.num_eval": 4, "world.look_alikes": 2}
    overrides = {**world, "clips.clips_per_shard": 2, "stages": [stage]}
    return {"recipe": "nano", "clips": "nano", "overrides": overrides, "store": store}


class Snapshot(NamedTuple):
    """What a store held at one moment."""

    records: dict[str, tuple[str, str]]  # key of a derived record or a manifest -> (created, commit_id)
    pool: dict[str, float]  # key of a pooled object -> when it was written
    puts: int  # PUT requests that the S3 server had seen


class Watched:
    """A store seen from outside the run."""

    def __init__(self, uri: str, puts: Path | None = None) -> None:
        self.uri = uri
        self.store = open_store(uri)
        self._puts = puts  # the S3 server's log, a path a line

    def put_since(self, snapshot: Snapshot) -> set[str]:
        """Keys of this store that were PUT to the S3 server after the snapshot, whether they were there or not."""
        before = self.uri.removeprefix("s3:/") + "/"
        return {line.removeprefix(before) for line in self._lines()[snapshot.puts :] if line.startswith(before)}

    def _lines(self) -> list[str]:
        return self._puts.read_text().splitlines() if self._puts else []

    def keys(self, prefix: str, suffix: str) -> list[str]:
        return [info.key for info in self.store.list(prefix) if info.key.endswith(suffix)]

    def derived(self, kind: str) -> int:
        """Finished units of work."""
        return len(self.keys(f"derived/{kind}/", ".json"))

    def done(self, kind: str) -> bool:
        return any(key.count("/") == 2 for key in self.keys(f"{kind}/", "/manifest.json"))

    def last_step(self) -> int:
        """The last step checkpoint; 0 where there is none."""
        return max((int(key.split("/")[-2]) for key in self.keys("checkpoints/", "/commit.json")), default=0)

    def snapshot(self) -> Snapshot:
        records, pool = {}, {}
        for info in self.store.list(""):
            if info.key.startswith("pool/"):
                pool[info.key] = info.modified_s
            elif info.key.startswith("derived/") or info.key.endswith("/manifest.json"):
                try:
                    record = json.loads(self.store.get_bytes(info.key))
                except ObjectMissing:
                    continue
                records[info.key] = (record["created"], record["commit_id"])
        return Snapshot(records, pool, len(self._lines()))

    def manifest(self, kind: Any) -> Manifest:
        """The only artifact of a kind."""
        (found,) = ArtifactStore(self.store).manifests(kind)
        return found

    def losses(self) -> list[str]:
        """The loss of every step, to the last bit."""
        found = self.manifest("checkpoints").file("records.json")
        return [float(record["loss"]).hex() for record in json.loads(self.store.get_bytes(found.key))]

    def content(self, kinds: tuple[str, ...] = (*CURATED, "checkpoints", "edits")) -> dict[str, str]:
        """SHA-256 of everything whose bytes follow from the recipe: weights, shards, mp4s."""
        files = [(kind, file) for kind in kinds for file in self.manifest(kind).files]
        return {f"{kind}/{file.name}": file.sha256 for kind, file in files if Path(file.name).suffix in (".parquet", ".safetensors", ".mp4")}


class Moment(NamedTuple):
    """When to strike: `reached` and not yet `over`. unit: the title of the Ray process that does the work then."""

    name: str
    reached: Callable[[Watched], bool]
    over: Callable[[Watched], bool]
    unit: str


MOMENTS = (
    Moment("curation", lambda s: s.derived("latents") > 0, lambda s: s.done("latents"), "ray::encoding latents"),
    Moment("training", lambda s: s.last_step() >= 10, lambda s: s.last_step() >= STEPS or s.done("checkpoints"), "ray::RayTrainWorker"),
    Moment("evaluation", lambda s: s.derived("edits") > 0, lambda s: s.done("edits"), "ray::editing (verify)"),
)
