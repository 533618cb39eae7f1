"""Looking at artifacts without changing them: what each was made from, and whether its bytes are still what it says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.store import LocalStore, ObjectMissing, ObjectStore
from pvtt_model.artifacts import Manifest, sha256_of_file

Find = Callable[[str], Manifest | None]


@dataclass(frozen=True)
class Lineage:
    """An artifact and what it was made from. `manifest` is None where an input is gone from the store."""

    name: str
    manifest: Manifest | None
    inputs: tuple[Lineage, ...]

    def names(self) -> list[str]:
        """Every artifact in it, once, inputs after what was made from them."""
        found = {self.name: None}
        for node in self.inputs:
            found.update(dict.fromkeys(node.names()))
        return list(found)


@dataclass(frozen=True)
class Problem:
    artifact: str
    file: str
    what: str  # missing | corrupt | input missing | unreadable manifest
    detail: str


@dataclass
class VerifyReport:
    """Counts of what was looked at (each object once, however many artifacts share it), and what is wrong."""

    artifacts: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def trace(manifest: Manifest, find: Find) -> Lineage:
    """The tree of inputs; an artifact reached twice is read once."""
    known: dict[str, Lineage] = {}

    def node(name: str, found: Manifest | None) -> Lineage:
        if name not in known:
            inputs = () if found is None else tuple(node(i, None if i in known else find(i)) for i in found.inputs)
            known[name] = Lineage(name, found, inputs)
        return known[name]

    return node(manifest.name, manifest)


def verify(store: ObjectStore, find: Find, names: Sequence[str]) -> VerifyReport:
    """Hash every file of the artifacts again."""
    report = VerifyReport()
    hashes: dict[str, tuple[str, int] | None] = {}
    for name in names:
        report.artifacts += 1
        try:
            manifest = find(name)
        except ValueError as error:
            report.problems.append(Problem(name, "manifest.json", "unreadable manifest", str(error)))
            continue
        if manifest is None:
            report.problems.append(Problem(name, "manifest.json", "missing", f"not in {store.uri}"))
            continue
        for file in manifest.files:
            if file.key not in hashes:
                hashes[file.key] = _hash(store, file.key)
                report.files += 1
                report.bytes += file.bytes
            got = hashes[file.key]
            if got is None:
                report.problems.append(Problem(name, file.name, "missing", file.key))
            elif got != (file.sha256, file.bytes):
                detail = f"{file.key}: should be {file.bytes} bytes, SHA-256 {file.sha256}; got {got[1]} bytes, {got[0]}"
                report.problems.append(Problem(name, file.name, "corrupt", detail))
        for inp in manifest.inputs:
            if not store.exists(f"{inp}/manifest.json"):
                report.problems.append(Problem(name, "", "input missing", inp))
    return report


def _hash(store: ObjectStore, key: str) -> tuple[str, int] | None:
    """SHA-256 and bytes of what the store holds now, past every cache; None where it holds nothing."""
    try:
        if isinstance(store, LocalStore):
            path = store.path_of(key)
            return sha256_of_file(path), path.stat().st_size
        with tempfile.TemporaryDirectory(prefix="pvtt-verify-") as folder:
            path = Path(folder, "object")
            store.get_file(key, path)
            return sha256_of_file(path), path.stat().st_size
    except (ObjectMissing, FileNotFoundError):
        return None
