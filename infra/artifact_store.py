"""Artifacts in an object store: files first, the manifest last.

    <kind>/<version>/manifest.json   its presence, made by a conditional put, is the definition of done
    <kind>/<version>/<name>          files of that version alone
    pool/ab/<sha256>.<suffix>        shards by content, shared by all versions
    derived/<kind>/<key>.json        one finished unit of work (e.g. a shard) of a version not yet done: what a retry need not redo
    leases/, probe/                  see infra/lease.py and infra/store/s3.py

Look here for what is done; what is wrong is infra/audit.py's, and what may go infra/garbage.py's.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.audit import Lineage, VerifyReport, trace, verify
from infra.code_version import code_version, library_versions
from infra.garbage import Garbage, collect_garbage, plan_garbage
from infra.lease import Holder, Lease, hold_lease
from infra.store import LocalStore, ObjectMissing, ObjectStore, open_store
from infra.store.base import asked
from infra.store.keys import checked_key
from pvtt_model.artifacts import ArtifactRef, Kind, Manifest, Planned, StoredFile, canonical_json, sha256_of_file

#: A pooled object older than this is touched when it is used again, so that gc's grace starts anew. Keep gc's grace well above it.
TOUCH_AFTER_S = 3600.0


class ArtifactMissing(LookupError):
    """No manifest under that name: the artifact was never finished, or is in another store."""


class CorruptObject(OSError):
    """The store's bytes are not those that the manifest names."""


class Derived(BaseModel):
    """One finished unit of work, found again by a key its producer computes before the work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    key: str
    files: tuple[StoredFile, ...]
    summary: dict[str, Any]
    created: str
    commit_id: str


class ArtifactStore:
    """What is done, and its files. Safe for any number of processes at once.

    cache_dir: where downloads are kept by content; default $PVTT_CACHE, else `.cache/` in a local store (hard links, no second copy),
    else ~/.cache/pvtt. Nothing is evicted: it may be deleted at any time.
    """

    def __init__(self, store: ObjectStore, cache_dir: Path | None = None) -> None:
        self.store = store
        default = store.root / ".cache" if isinstance(store, LocalStore) else Path("~/.cache/pvtt").expanduser()
        self.cache_dir = Path(cache_dir or os.environ.get("PVTT_CACHE") or default)
        self._verified: dict[str, tuple[int, int, int]] = {}

    @classmethod
    def open(cls, uri: str | Path, cache_dir: Path | None = None) -> ArtifactStore:
        """At a path, file:///path or s3://bucket/prefix. Raises as `open_store`."""
        return cls(open_store(uri), cache_dir)

    def __repr__(self) -> str:
        return f"ArtifactStore({self.store!r})"

    # --- what is done

    def find(self, planned: Planned | ArtifactRef | str) -> Manifest | None:
        """The manifest of a planned artifact or 'kind/version', or None where it is not done. Raises ValueError for an unreadable manifest."""
        name = artifact_name(planned)
        try:
            data = self.store.get_bytes(f"{name}/manifest.json")
        except ObjectMissing:
            return None
        return _parse_manifest(name, data)

    def manifest(self, ref: ArtifactRef | Planned | str) -> Manifest:
        """The manifest. Raises ArtifactMissing where there is none."""
        found = self.find(ref)
        if found is None:
            raise ArtifactMissing(
                f"there is no finished artifact {artifact_name(ref)} in {self.store.uri}. "
                "Run the step that makes it again, or look where it is: pvtt artifacts ls --store URI."
            )
        return found

    def manifests(self, kind: Kind | None = None) -> list[Manifest]:
        """All manifests, of one kind or of every kind, oldest first."""
        found = [self.manifest(name) for name in self.names(kind)]
        return sorted(found, key=lambda m: (m.created, m.name))

    def names(self, kind: Kind | None = None) -> list[str]:
        """The names, kind/version, of what is done, sorted."""
        kinds = [kind] if kind else sorted(get_args(Kind))
        keys = (info.key for k in kinds for info in self.store.list(f"{k}/"))
        return [key.removesuffix("/manifest.json") for key in keys if key.count("/") == 2 and key.endswith("/manifest.json")]

    def newest(self, kind: Kind, count: int) -> list[Manifest]:
        """The `count` versions last committed, by the store's own dates, newest first; one that cannot be read is passed over."""
        listed = sorted(((info.modified_s, info.key) for info in self.store.list(f"{kind}/") if info.key.count("/") == 2), reverse=True)
        found: list[Manifest] = []
        for key in (key for _, key in listed if key.endswith("/manifest.json")):
            if len(found) == count:
                break
            with suppress(ValueError, ArtifactMissing):
                found.append(self.manifest(key.removesuffix("/manifest.json")))
        return sorted(found, key=lambda m: (m.created, m.name), reverse=True)

    def ref(self, manifest: Manifest) -> ArtifactRef:
        return ArtifactRef(kind=manifest.kind, version=manifest.version, uri=self.store.uri)

    # --- making one

    def pool(self, path: str | Path, name: str, rows: int | None = None) -> StoredFile:
        """Put a file under its content's key, unless it is there. `name` is its name in the manifest; rows of a Parquet shard."""
        path = Path(path)
        sha256 = sha256_of_file(path)
        key = f"pool/{sha256[:2]}/{sha256}{path.suffix}"
        file = StoredFile(name=name, key=checked_key(key), bytes=path.stat().st_size, sha256=sha256, rows=rows)
        if not self.has(file):
            self.store.put_file(key, path)
        return file

    def attach(self, planned: Planned, name: str, path: str | Path) -> StoredFile:
        """Put a file in the version's own folder; `name` may hold '/'. Raises ValueError where it is the manifest's, or the artifact is done."""
        if name == "manifest.json":
            raise ValueError(f"a file of {planned.name} cannot be called 'manifest.json': its presence means done. Give it another name.")
        key = checked_key(f"{planned.name}/{name}")
        done = self.find(planned)
        if done is not None and any(f.key == key for f in done.files):
            raise ValueError(f"{planned.name} is done and immutable; '{name}' cannot be written again. Look with find() before the work.")
        file = StoredFile(name=name, key=key, bytes=Path(path).stat().st_size, sha256=sha256_of_file(path))
        self.store.put_file(key, path)
        return file

    def commit(self, planned: Planned, files: Sequence[StoredFile], summary: dict[str, Any] | None = None) -> Manifest:
        """Write the manifest, once and for all; where another was first, theirs is returned and counts.

        Raises ValueError for two files of one name or a summary JSON cannot hold, ObjectMissing for a file that is not in the store.
        """
        names = [f.name for f in files]
        if len(set(names)) != len(names):
            raise ValueError(f"{planned.name}: files share a name: {sorted({n for n in names if names.count(n) > 1})}. Give each its own.")
        done = self.find(planned)
        if done is not None:
            return done
        gone = [f.name for f in self.missing(files)]
        if gone:
            raise ObjectMissing(f"{planned.name}: {gone} are not in {self.store.uri}, or have another size. Pool or attach them before commit.")
        record = planned.model_dump() | {
            "commit_id": uuid.uuid4().hex,
            "created": _now(),
            "code": code_version(),
            "libraries": library_versions(),
            "files": [f.model_dump() for f in files],
            "summary": _checked_json(planned.name, summary),
        }
        data = Manifest.model_validate(record).model_dump_json(indent=1).encode()
        if self.store.put_if_absent(f"{planned.name}/manifest.json", data):
            return _parse_manifest(planned.name, data)
        return self.manifest(planned)

    def lease(
        self,
        planned: Planned,
        *,
        heartbeat_s: float = 3.0,
        stale_s: float = 20.0,
        wait_s: float | None = None,
        on_wait: Callable[[float, Holder], None] | None = None,
    ) -> AbstractContextManager[Lease]:
        """Keep others from doing the same work at the same time, where one can; correctness never depends on it. See infra/lease.py."""
        return hold_lease(self.store, planned.name, lambda: self.find(planned), heartbeat_s, stale_s, wait_s, on_wait)

    # --- units of work

    def find_derived(self, kind: str, key: str) -> Derived | None:
        """The finished unit of work, or None; None too where gc has taken one of its files."""
        try:
            derived = Derived.model_validate_json(self.store.get_bytes(_derived_key(kind, key)))
        except ObjectMissing:
            return None
        return derived if all(self.has(f) for f in derived.files) else None

    def record_derived(self, kind: str, key: str, files: Sequence[StoredFile], summary: dict[str, Any] | None = None) -> Derived:
        """Remember a finished unit of work; where another was first, theirs is returned and counts. Put its files (pool) before."""
        where = _derived_key(kind, key)
        facts = _checked_json(where, summary)
        ours = Derived(kind=kind, key=key, files=tuple(files), summary=facts, created=_now(), commit_id=uuid.uuid4().hex)
        data = ours.model_dump_json(indent=1).encode()
        if not self.store.put_if_absent(where, data):
            theirs = self.find_derived(kind, key)
            if theirs is not None:
                return theirs
            self.store.put_bytes(where, data)  # a dead record: gc has taken its files
        return Derived.model_validate_json(data)

    # --- reading

    def local_path(self, file: StoredFile) -> Path:
        """The file's bytes on this machine, for reading only. Raises CorruptObject where they are not those of its SHA-256.

        Hashed at the download, and once a process where it was cached before. Raises ObjectMissing where the store has lost it.
        """
        path = f"{self.cache_dir}/{file.sha256[:2]}/{file.sha256}{PurePosixPath(file.key).suffix}"
        for _ in range(2):
            intact = self._is_intact(path, file.sha256)
            if intact is None:
                self._fetch(file.key, Path(path))
                intact = self._is_intact(path, file.sha256)
            if intact:
                return Path(path)
            Path(path).unlink(missing_ok=True)
        raise CorruptObject(
            f"{file.key} in {self.store.uri} is corrupt: SHA-256 should be {file.sha256}, twice got another. "
            "See what else is with `pvtt artifacts verify`; delete the object and run the step again to make it anew."
        )

    def _fetch(self, key: str, path: Path) -> None:
        if isinstance(self.store, LocalStore):
            self.store.link_file(key, path)
        else:
            self.store.get_file(key, path)

    def _is_intact(self, path: str, sha256: str) -> bool | None:
        """None where there is none; another process may have found it corrupt."""
        try:
            stat = os.stat(path)
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._verified.get(path) == stamp:
                return True
            if sha256_of_file(path) != sha256:
                return False
        except FileNotFoundError:
            return None
        self._verified[path] = stamp
        return True

    def missing(self, files: Sequence[StoredFile]) -> list[StoredFile]:
        """Those of the files that the store has not; several are asked for at once where it is far away."""
        return [file for file, there in zip(files, asked(self.store, self.has, files), strict=True) if not there]

    def has(self, file: StoredFile) -> bool:
        """Is it in the store, at its size? An old one is touched, so that gc leaves it for its grace."""
        info = self.store.stat(file.key)
        if info is None or info.bytes != file.bytes:
            return False
        if time.time() - info.modified_s > TOUCH_AFTER_S:
            try:
                self.store.touch(file.key)
            except ObjectMissing:
                return False
        return True

    # --- care

    def lineage(self, name: ArtifactRef | str) -> Lineage:
        """The artifact and, below it, what it was made from, down to the clips. Raises ArtifactMissing for the artifact itself."""
        return trace(self.manifest(name), self.find)

    def verify(self, names: Sequence[str] | None = None) -> VerifyReport:
        """Hash every file of the named artifacts (all, by default) in the store again."""
        return verify(self.store, self.find, list(names) if names else self.names())

    def gc(self, grace_s: float = 86400, delete: bool = False, only: Collection[Garbage] | None = None) -> list[Garbage]:
        """What no manifest reaches and is older than `grace_s`; with delete=True, what was deleted of it (of `only`, where given)."""
        plan = list(only) if only is not None else plan_garbage(self.store, grace_s)
        return collect_garbage(self.store, plan, grace_s) if delete else plan


def artifact_name(of: Planned | ArtifactRef | str) -> str:
    """'kind/version'. Raises ValueError that lists the kinds."""
    name = of if isinstance(of, str) else of.name
    kind, _, version = name.partition("/")
    if kind not in get_args(Kind) or not version or "/" in version:
        raise ValueError(f"'{name}' is not an artifact's name, kind/version. Kinds: {', '.join(get_args(Kind))}.")
    return checked_key(name)


@lru_cache(maxsize=8)
def _parse_manifest(name: str, data: bytes) -> Manifest:
    """Kept by their bytes, as each step asks for those before it several times, and each lists a version's every shard."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise ValueError(f"{name}/manifest.json cannot be read: {error.error_count()} faults, first: {first}. Restore it.") from error
    if manifest.name != name:
        raise ValueError(f"{name}/manifest.json says that it is {manifest.name}. It was moved by hand: move it back.")
    return manifest


def _derived_key(kind: str, key: str) -> str:
    return checked_key(f"derived/{kind}/{key}.json")


def _checked_json(name: str, summary: dict[str, Any] | None) -> dict[str, Any]:
    try:
        canonical_json(summary or {})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: the summary {summary!r} is not JSON ({error}). Use plain values; no NaN or infinity.") from error
    return summary or {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
