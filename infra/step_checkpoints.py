"""Checkpoints inside a running training: <kind>/<version>/steps/NNNNNN/, each made real by its commit.json, written last.

They belong to an artifact that is not finished yet; `pvtt artifacts gc` removes them once it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from infra.store.base import ObjectMissing, ObjectStore
from pvtt_model.artifacts import Planned, StoredFile, sha256_of_file

Names = Sequence[str] | Callable[[Sequence[str]], Sequence[str]]

log = logging.getLogger(__name__)


class StepCheckpoints:
    """The step checkpoints of one planned artifact."""

    def __init__(self, store: ObjectStore, planned: Planned) -> None:
        self.store = store
        self.prefix = f"{planned.kind}/{planned.version}/steps/"

    def upload(self, step: int, folder: Path) -> list[StoredFile]:
        """This rank's files of the state after `step` steps. Not a checkpoint before `commit`."""
        stored = []
        for path in sorted(p for p in folder.iterdir() if p.is_file()):
            key = f"{self._folder(step)}{path.name}"
            self.store.put_file(key, path)
            stored.append(StoredFile(name=path.name, key=key, bytes=path.stat().st_size, sha256=sha256_of_file(path)))
        return stored

    def commit(self, step: int, files: Sequence[StoredFile], pinned: bool = False) -> None:
        """All ranks' files are there: the checkpoint exists. Made again after damage, the new one counts; the lease keeps writers apart.

        pinned: `prune` leaves it.
        """
        record = {"step": step, "files": [f.model_dump() for f in files]} | ({"pinned": True} if pinned else {})
        self.store.put_bytes(f"{self._folder(step)}commit.json", json.dumps(record).encode())

    def steps(self) -> list[int]:
        """Committed steps, ascending."""
        found = [info.key for info in self.store.list(self.prefix) if info.key.endswith("/commit.json")]
        return sorted(int(key.removeprefix(self.prefix).split("/")[0]) for key in found)

    def fetch_last(self, folder: Path, names: Names, at_most: int | None = None) -> tuple[int, Path] | None:
        """(step, folder) of the newest checkpoint (of step `at_most` or before) whose files `names` arrive with their recorded SHA-256.

        names: of the files, or what chooses them among those there.
        None where there is none. A damaged checkpoint is said aloud and the one before is used.
        """
        for step in reversed(self.steps()):
            if at_most is not None and step > at_most:
                continue
            try:
                return step, self._fetch(step, folder / f"step{step:06d}", names)
            except (ValueError, ObjectMissing) as error:
                log.warning("step checkpoint %d is refused (%s); trying the one before", step, error)
        return None

    def fetch_first(self, folder: Path, names: Sequence[str], steps: Iterable[int]) -> tuple[int, Path] | None:
        """As fetch_last, of these steps in this order: those that are committed."""
        committed = set(self.steps())
        for step in steps:
            if step in committed:
                try:
                    return step, self._fetch(step, folder / f"step{step:06d}", names)
                except (ValueError, ObjectMissing) as error:
                    log.warning("step checkpoint %d is refused (%s); trying the next best", step, error)
        return None

    def prune(self, keep: int, also: Collection[int] = ()) -> None:
        """Delete all but the newest `keep`, `also` and those pinned; the commit goes first, so that half a checkpoint never counts."""
        for step in self.steps()[:-keep]:
            if step in also or self._is_pinned(step):
                continue
            self.store.delete([f"{self._folder(step)}commit.json"])
            self.store.delete([info.key for info in self.store.list(self._folder(step))])

    def _is_pinned(self, step: int) -> bool:
        try:
            return bool(json.loads(self.store.get_bytes(f"{self._folder(step)}commit.json")).get("pinned"))
        except (ValueError, ObjectMissing):
            return False

    def _folder(self, step: int) -> str:
        return f"{self.prefix}{step:06d}/"

    def _fetch(self, step: int, folder: Path, names: Names) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        record = json.loads(self.store.get_bytes(f"{self._folder(step)}commit.json"))
        files = {f["name"]: StoredFile(**f) for f in record["files"]}
        for name in names(list(files)) if callable(names) else names:
            if name not in files:
                raise ValueError(f"it has no {name}, only {sorted(files)}; it was written by another number of workers")
            path = folder / name
            self.store.get_file(files[name].key, path)
            got = sha256_of_file(path)
            if got != files[name].sha256:
                raise ValueError(f"{name} has SHA-256 {got[:12]}, recorded {files[name].sha256[:12]}")
        return folder
