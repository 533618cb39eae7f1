"""What is known of a shard's rows, in files of their own beside it: its pieces.

    shard-00007.parquet   the rows themselves
    rows-00007.json       all that a table says of them, in their order
    hashes-00007.json     of clips: what tells them from one another, [SHA-256 of the video, frame hashes, those of the right edit]

Pieces are pooled by content, as shards are: a new version writes those of its new shards and lists the others again. What is asked of every clip
of a version at once is brief, and stands in the clips' table (BRIEF) or in the record of the unit of work. A shard may hold rows of clips that
were refused, removed or corrected later: the clips' table says which of its rows count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from infra.artifact_store import ArtifactStore, Derived
from pvtt_model.artifacts import Manifest, StoredFile
from tasks.tables import TABLE, pool_json, read_json

Row = dict[str, Any]
ROWS, HASHES = "rows", "hashes"
REASONS = "reasons.json"  # of masks, latents, conditions: the clips that cannot be used, or of which less was made, and why
HASHED = ("video_sha256", "frame_hashes", "truth_frame_hashes")
BRIEF: dict[str, tuple[str, ...]] = {
    "clips": ("clip_key", "line_key", "product_id", "split", "source", "line", "start_s", "height", "has_truth"),
    "masks": ("clip_key", "usable", "reason", "provenance", "area"),
    "conditions": ("clip_key", "usable", "reason", "caption_source", "caption_fallback"),
}


class Shard(NamedTuple):
    """A shard and its pieces, as a manifest lists them."""

    shard: StoredFile
    pieces: tuple[StoredFile, ...]

    @property
    def sha256(self) -> str:
        return self.shard.sha256

    def files(self, number: int) -> list[StoredFile]:
        """Named for a place in a version: by kind and number."""
        all_of_them = (self.shard, *self.pieces)
        names = [f"{file.name.partition('-')[0]}-{number:05d}.{file.name.rpartition('.')[2]}" for file in all_of_them]
        return [file.model_copy(update={"name": name}) for file, name in zip(all_of_them, names, strict=True)]


def pieces_of(manifest: Manifest, what: str) -> dict[int, StoredFile]:
    """By the shard's number; empty of an artifact made before there were pieces, whose table has whole rows."""
    return {int(file.name[len(what) + 1 :].partition(".")[0]): file for file in manifest.files if file.name.startswith(f"{what}-")}


def shards_of(manifest: Manifest) -> list[Shard]:
    """The shards of an artifact with their pieces."""
    pieces = [pieces_of(manifest, what) for what in (ROWS, HASHES)]
    return [Shard(shard, tuple(of_kind[i] for of_kind in pieces if i in of_kind)) for i, shard in enumerate(manifest.shards())]


def files_of(records: Sequence[Derived]) -> list[StoredFile]:
    """The shards and pieces of finished units, one a shard, named by their order."""
    return [file for i, record in enumerate(records) for file in Shard(record.files[0], record.files[1:]).files(i)]


def _name(what: str, number: int) -> str:
    return f"{what}-{number:05d}.json"


def cut(store: ArtifactStore, kind: str, number: int, rows: list[Row]) -> tuple[list[Row], list[StoredFile]]:
    """(each row in brief, the pooled pieces) of a shard; rows as they are, and no piece, of a kind whose rows are brief already."""
    if kind not in BRIEF:
        return rows, []
    pieces = [pool_json(store, _name(ROWS, number), [{k: v for k, v in row.items() if k not in HASHED[1:]} for row in rows])]
    if kind == "clips":
        pieces.append(pool_json(store, _name(HASHES, number), [[row.get(k) for k in HASHED] for row in rows]))
        rows = [row | {"has_truth": bool(row.get("truth_frame_hashes"))} for row in rows]
    return [{k: row[k] for k in BRIEF[kind] if k in row} for row in rows], pieces


def find_unit(store: ArtifactStore, kind: str, key: str) -> Derived | None:
    """The finished unit of work; the pieces of one that was recorded before there were any are cut here."""
    found = store.find_derived(kind, key)
    if found is None or kind not in BRIEF or kind not in found.summary or len(found.files) > 1:
        return found
    brief, pieces = cut(store, kind, 0, found.summary[kind])
    return found.model_copy(update={"files": (*found.files, *pieces), "summary": found.summary | {kind: brief}})


def read_piece(store: ArtifactStore, file: StoredFile) -> list[Any]:
    """A piece, hash checked; read anew each time, unless it was read ahead."""
    rows: list[Any] | None = _AHEAD.pop(file.sha256, None)
    return orjson.loads(store.local_path(file).read_bytes()) if rows is None else rows


AHEAD_ROWS = 20_000
_AHEAD: dict[str, list[Any]] = {}


def read_ahead(store: ArtifactStore, files: Iterable[StoredFile]) -> None:
    """The first AHEAD_ROWS rows of pieces that are about to be asked for, each once, while nothing else is to be done."""
    _AHEAD.clear()
    left = AHEAD_ROWS
    for file in files:
        if left <= 0:
            break
        _AHEAD[file.sha256] = rows = read_piece(store, file)
        left -= len(rows)


def by_shard(facts: Iterable[Row]) -> dict[int, list[Row]]:
    """Rows of the clips' table by their shard, in the order of both."""
    found: dict[int, list[Row]] = {}
    for fact in facts:
        found.setdefault(fact["shard"], []).append(fact)
    return dict(sorted(found.items()))


def whole_facts(store: ArtifactStore, clips: Manifest, facts: Sequence[Row]) -> list[Row]:
    """Rows of the clips' table with all that is known of the clips, in the order given; only their shards' pieces are read."""
    pieces = pieces_of(clips, ROWS)
    if not pieces:
        return list(facts)
    rows = {number: read_piece(store, pieces[number]) for number in by_shard(facts)}
    return [rows[fact["shard"]][fact["row"]] | fact for fact in facts]


def rows_beside(store: ArtifactStore, manifest: Manifest, facts: Iterable[Row]) -> Iterator[list[Row]]:
    """Of clips (as they were probed), masks or conditions: the whole rows beside these of the clips' table, a shard at a time."""
    pieces = pieces_of(manifest, ROWS)
    table = {} if pieces else {row["clip_key"]: row for row in read_json(store, manifest)}
    for number, its in by_shard(facts).items():
        rows = read_piece(store, pieces[number]) if pieces else []
        yield [rows[fact["row"]] if pieces else table[fact["clip_key"]] for fact in its]


def reasons(store: ArtifactStore, manifest: Manifest) -> list[Row]:
    """Of masks, latents or conditions: the rows of clips that cannot be used, or of which something is said."""
    if REASONS in {file.name for file in manifest.files}:
        rows: list[Row] = read_json(store, manifest, REASONS)
        return rows
    return with_reasons(read_json(store, manifest, TABLE))


def with_reasons(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row["usable"] or row.get("reason")]
