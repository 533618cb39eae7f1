"""What a step leaves behind: a kind, a version computed before the work, and a manifest written last.

    version = digest(kind, spec, versions of the inputs, revision)

The version is the folder in the store and the name of the Ray run, so a retry resumes and nothing is done twice. The
manifest's presence in the store is the definition of done. Nothing here reads or writes a store: see infra/artifact_store.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["clips", "masks", "latents", "conditions", "cards", "checkpoints", "edits", "reports", "gates", "releases"]

#: Raised by whoever changes what a producer writes for the same spec and inputs: old artifacts then no longer match.
#: One table instead of a constant a module, so that `pvtt plan` and a run that reuses everything import no torch.
REVISIONS: dict[Kind, int] = {
    "clips": 5,
    "masks": 3,
    "latents": 4,
    "conditions": 5,
    "cards": 4,
    "checkpoints": 3,
    "edits": 4,
    "reports": 3,
    "gates": 1,
    "releases": 1,
}

#: The same for the clips of clips.shots=split alone. 2: a file's bytes once, the truth's hashes of each shot.
SPLIT_REVISION = 2


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArtifactRef(_Frozen):
    """A reference to a finished artifact; the only thing that crosses a task's boundary."""

    kind: Kind
    version: str
    uri: str = Field(description="Root of the store that holds it, e.g. /data/store or s3://bucket/prefix")

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.version}"


class Planned(_Frozen):
    """An artifact before its work: its version is known, whether it exists is the store's to say."""

    kind: Kind
    version: str
    spec: dict[str, Any]
    inputs: tuple[str, ...] = Field(description="names (kind/version) of the input artifacts")
    revision: int

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.version}"


class StoredFile(_Frozen):
    """One file of an artifact. `key` is relative to the store's root; a pooled file's key is pool/ab/abcd..., by content."""

    name: str
    key: str
    bytes: int
    sha256: str
    rows: int | None = Field(default=None, description="rows of a Parquet shard; None for other files")


class Manifest(_Frozen):
    """The record that makes an artifact exist. Written last, by a conditional put, and never again."""

    kind: Kind
    version: str
    commit_id: str = Field(description="random, one a writer: tells a swallowed acknowledgement of our own write from a lost race")
    created: str = Field(description="UTC, ISO 8601")
    revision: int
    spec: dict[str, Any]
    inputs: tuple[str, ...]
    code: dict[str, Any] = Field(description="commit of this repository and whether the tree was dirty")
    libraries: dict[str, str]
    files: tuple[StoredFile, ...]
    summary: dict[str, Any] = Field(default_factory=dict, description="small facts a person or the next step asks for")

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.version}"

    def file(self, name: str) -> StoredFile:
        """The file called `name`. Raises KeyError that lists the names there are."""
        for file in self.files:
            if file.name == name:
                return file
        raise KeyError(f"{self.name} has no file '{name}'; it has {[f.name for f in self.files]}")

    def shards(self) -> list[StoredFile]:
        """The Parquet shards, in their order."""
        return [f for f in self.files if f.rows is not None]


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes. Raises TypeError for what JSON cannot hold, ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(*parts: Any) -> str:
    """20 hex digits (80 bits) of the SHA-256 of the parts' canonical JSON."""
    return hashlib.sha256(canonical_json(list(parts))).hexdigest()[:20]


def plan_artifact(kind: Kind, spec: dict[str, Any], inputs: Sequence[str] = ()) -> Planned:
    """The artifact that `kind` made to `spec` from `inputs` (names, kind/version) will be. Pure; before any work."""
    revision = REVISIONS[kind]
    return Planned(kind=kind, version=digest(kind, spec, list(inputs), revision), spec=spec, inputs=tuple(inputs), revision=revision)


SMALL_FILE = 1 << 16  # bytes: below it `file_digest` takes longer for its buffer than for the file


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hex digits, read in pieces."""
    with open(path, "rb", buffering=0) as file:
        start = file.read(SMALL_FILE)
        if len(start) < SMALL_FILE:
            start += file.read()  # a read may give less than is there
            return hashlib.sha256(start).hexdigest()
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
