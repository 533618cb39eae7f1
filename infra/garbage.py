"""What may go: objects that no manifest reaches. First a list, then, if wanted, its deletion after a second look.

Every manifest counts, whatever was made from it. Nothing younger than the grace goes, by the store's own clock; a version folder without
a manifest goes only as a whole, when its youngest object (or lease) is past the grace, so that a training in progress keeps its checkpoints.
Choose a grace longer than the longest step; infra/artifact_store.py touches old pooled files when it uses them again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from infra.store.base import ObjectInfo, ObjectMissing, ObjectStore
from pvtt_model.artifacts import Kind, Manifest

KINDS = frozenset(get_args(Kind))


@dataclass(frozen=True)
class Garbage:
    key: str
    bytes: int
    age_s: float
    reason: str


def plan_garbage(store: ObjectStore, grace_s: float) -> list[Garbage]:
    """What would go, in the order in which it would. Raises ValueError where a manifest cannot be read: what it reaches is not known."""
    if grace_s < 0:
        raise ValueError(f"grace_s is {grace_s}; give seconds, 0 or more")
    now_s = _store_clock(store)
    objects = {info.key: info for info in store.list()}
    reached = _reached(store)  # after the listing: a manifest written meanwhile counts
    reasons = _unfinished(objects, reached, now_s - grace_s)
    for key in objects:
        if key in reached or key in reasons:
            continue
        room, _, rest = key.partition("/")
        if room == "pool":
            reasons[key] = "pooled, in no manifest"
        elif room == "leases":
            reasons[key] = "lease"
        elif room == "probe":
            reasons[key] = "left by a probe"
        elif room in KINDS and f"{room}/{rest.partition('/')[0]}/manifest.json" in reached:
            steps = rest.partition("/")[2].startswith("steps/")
            reasons[key] = "step checkpoint of a finished version" if steps else "not in its version's manifest"
    old = {key: reason for key, reason in reasons.items() if now_s - objects[key].modified_s >= grace_s}
    dead = _dead_records(store, objects, reached, old, now_s - grace_s)
    # Records before the files that they name: whoever looks in between finds no record, rather than a record of nothing.
    return [Garbage(key, objects[key].bytes, now_s - objects[key].modified_s, reason) for key, reason in (dead | old).items()]


def collect_garbage(store: ObjectStore, plan: Iterable[Garbage], grace_s: float) -> list[Garbage]:
    """Delete of the plan what a second look still finds to be garbage. Returns what was deleted."""
    listed = {garbage.key for garbage in plan}
    going = [garbage for garbage in plan_garbage(store, grace_s) if garbage.key in listed]
    records = [g.key for g in going if g.key.startswith("derived/")]
    store.delete(records)
    store.delete([g.key for g in going if not g.key.startswith("derived/")])
    return going


def _reached(store: ObjectStore) -> set[str]:
    reached: set[str] = set()
    for key in [info.key for kind in sorted(KINDS) for info in store.list(f"{kind}/")]:
        if key.count("/") == 2 and key.endswith("/manifest.json"):
            try:
                manifest = Manifest.model_validate_json(store.get_bytes(key))
            except ValueError as error:
                raise ValueError(f"{key} cannot be read, so what it reaches is not known and nothing is deleted. Restore it. ({error})") from error
            reached.add(key)
            reached.update(file.key for file in manifest.files)
    return reached


def _unfinished(objects: dict[str, ObjectInfo], reached: set[str], before_s: float) -> dict[str, str]:
    """The objects of version folders without a manifest in which nothing, and no lease on them, is younger than `before_s`."""
    folders: dict[str, list[ObjectInfo]] = {}
    youngest_s: dict[str, float] = {}
    for key, info in objects.items():
        leased = key.startswith("leases/")
        parts = key.removeprefix("leases/").split("/", 2)
        if len(parts) < 3 or parts[0] not in KINDS:
            continue
        name = f"{parts[0]}/{parts[1]}"
        youngest_s[name] = max(youngest_s.get(name, 0.0), info.modified_s)
        if not leased and f"{name}/manifest.json" not in reached:
            folders.setdefault(name, []).append(info)
    return {
        info.key: "of a version without a manifest"
        for name, infos in folders.items()
        if youngest_s[name] <= before_s
        for info in infos
        if info.key not in reached
    }


def _dead_records(store: ObjectStore, objects: dict[str, ObjectInfo], reached: set[str], going: dict[str, str], before_s: float) -> dict[str, str]:
    """Derived records past the grace of which a file is going or gone; an unreadable one too."""
    dead = {}
    for key, info in objects.items():
        if not key.startswith("derived/") or info.modified_s > before_s:
            continue
        try:
            files = [file["key"] for file in json.loads(store.get_bytes(key))["files"]]
        except ObjectMissing:
            continue
        except (ValueError, KeyError, TypeError):
            dead[key] = "record that cannot be read"
            continue
        if any(file in going or (file not in objects and file not in reached) for file in files):
            dead[key] = "record of files that are going or gone"
    return dead


def _store_clock(store: ObjectStore) -> float:
    """Now, in seconds since the epoch, by the clock that dates the objects."""
    key = f"probe/{uuid.uuid4().hex}"
    store.put_bytes(key, b"what time is it?")
    try:
        return next((info.modified_s for info in store.list(key)), time.time())
    finally:
        store.delete([key])
