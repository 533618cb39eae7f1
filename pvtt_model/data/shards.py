"""Parquet shards: one row a row group, so that one row can be read alone; the same rows give the same bytes.

Rows of one clip sit at the same shard index and row in clips, masks, latents and conditions. The shots of one file are rows of one line; the
file's bytes, and its references', masks' and truth's, stand in the first of them alone, and the footer says which row that is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pvtt_model.data.tensor_rows import COLUMN, entry, footer_entry

Row = dict[str, Any]

#: Of a clips row, the files' bytes; and what stands there in a row whose bytes another one has.
BYTES: Row = {"video": b"", "mask": [], "references": [], "truth_video": None, "truth_mask": None}
HELD_BY = b"pvtt.held_by"  # in the footer, where there is any such row: JSON {row: the row that has its bytes}


def _schema(required: dict[str, pa.DataType], optional: dict[str, pa.DataType] | None = None) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    return pa.schema(fields + [pa.field(name, kind, nullable=True) for name, kind in (optional or {}).items()])


_PNGS = pa.list_(pa.binary())
_USABLE: dict[str, pa.DataType] = {"clip_key": pa.string(), "usable": pa.bool_()}
_REASON: dict[str, pa.DataType] = {"reason": pa.string()}

SCHEMAS: dict[str, pa.Schema] = {
    "clips": _schema(
        {
            "clip_key": pa.string(),  # first 20 hex digits of the video's SHA-256; of a shot, or of one of several tasks on it, a digest of its own
            "video": pa.binary(),  # the source file's bytes (of a file's later shots: see BYTES)
            "mask": _PNGS,  # 'video': one mp4; 'png': one picture a frame; 'none': empty
            "mask_format": pa.string(),
            "references": _PNGS,  # the picture files' bytes
            "prompt": pa.string(),
            "width": pa.int32(),
            "height": pa.int32(),
            "fps": pa.float64(),
            "num_frames": pa.int32(),
            "product_id": pa.string(),
            "metadata": pa.string(),  # JSON, as in the manifest
            "source": pa.string(),  # video_path as given
            "line": pa.int32(),  # of the manifest, from 1
        },
        {
            "split": pa.string(),  # 'train', 'validation', 'eval', or null: by hash
            "product_words": pa.string(),  # what the prompt calls the product
            "look_alikes": pa.string(),  # name of the group of products that are easily taken for one another
            "truth_product_id": pa.string(),  # a product for which the right edit of this clip is known,
            "truth_video": pa.binary(),  # that edit,
            "truth_mask": _PNGS,  # and where its product is, a picture a frame
            "used_frames": pa.list_(pa.int32()),  # of the video, in order, those that the model sees; null: the first num_frames of the spec
            "truth_frame_hashes": pa.string(),  # of the right edit
            "start_s": pa.float64(),  # where in the video the clip begins, if it is one shot of several; null: at the beginning
            "frame_hashes": pa.string(),  # 6 perceptual hashes of 64 bits, hex: duplicates.py
        },
    ),
    "masks": _schema(
        {
            **_USABLE,
            "mask": _PNGS,  # 1-bit PNG a frame, at the source's size
            "provenance": pa.string(),  # 'manifest', or the provider that found it and what pointed it there
            "area": pa.float64(),  # mean share of the frame
            "area_max": pa.float64(),
            "jitter_px": pa.float64(),
            "gaps": pa.int32(),  # frames without product
            "temporal_iou": pa.float64(),  # of neighbouring frames, one shift compensated
            "quality": pa.float64(),  # 0 to 1
        },
        {
            **_REASON,
            "match": pa.float64(),  # cosine of frame 0's best cell and the reference, where that pointed at the product
            "compared_with": pa.string(),  # the second provider, where one was asked,
            "agreement": pa.float64(),  # and its mask's IoU with this one
        },
    ),
    "latents": _schema(_USABLE, {**_REASON, "tensors": pa.binary()}),
    "conditions": _schema(_USABLE, {**_REASON, "tensors": pa.binary()}),
    "edits": _schema(
        {
            **_USABLE,
            "reference_key": pa.string(),
            "prompt": pa.string(),
            "source": _PNGS,
            "mask": _PNGS,
            "raw": _PNGS,
            "composited": _PNGS,
            "round_trip": _PNGS,
            "fps": pa.float64(),
        },
        {
            **_REASON,
            "reference": pa.binary(),
            "product_id": pa.string(),  # of the product put in
            "source_prompt": pa.string(),  # the template's own
            "wrong_product_id": pa.string(),  # of the wrong reference
            "truth": _PNGS,  # the right edit, where it is known; its product's mask; and it through the VAE and back
            "truth_mask": _PNGS,
            "truth_round_trip": _PNGS,
            "base": _PNGS,  # the baselines asked for (EditSpec.baselines), raw
            "no_reference": _PNGS,
            "wrong_reference": _PNGS,
        },
    ),
}


def write_shard(path: str | Path, rows: Iterable[Row], schema: pa.Schema) -> int:
    """Write `rows`, in order, whole or not at all; returns their number. Raises ValueError for a row unlike `schema`.

    zstd but for the column 'tensors', which tensor_rows.py reads at its offset. Of clips that are shots of one file its bytes are written once:
    read_row and read_rows give the rows whole.
    """
    part, count = Path(f"{path}.part"), 0
    holder: tuple[int, Row] | None = None  # the last row that was written with its bytes
    held_by: dict[int, int] = {}
    packed = {name: "none" if name == COLUMN else "zstd" for name in _leaves(schema)}
    said: list[tuple[str, int, str]] = []
    with pq.ParquetWriter(part, schema, compression=packed, use_dictionary=False, write_statistics=False) as writer:
        for row in rows:
            _check(row, schema, count)
            if schema is SCHEMAS["clips"]:
                if holder is not None and _same_files(holder[1], row):
                    held_by[count], row = holder[0], row | BYTES
                else:
                    holder = count, row
            writer.write_table(pa.Table.from_pylist([row], schema=schema), row_group_size=1)
            count += 1
            if COLUMN in row:
                said.append(entry(row["clip_key"], row[COLUMN]))
        if COLUMN in schema.names:
            writer.add_key_value_metadata(footer_entry(said))
        if held_by:
            writer.add_key_value_metadata({HELD_BY: json.dumps(held_by).encode()})
    os.replace(part, path)
    return count


def _same_files(a: Row, b: Row) -> bool:
    """Whether both are shots of one line. Of those `inspect` gives the bytes are the same objects, and quickly compared."""
    return bool(a["line"] == b["line"] and all(a[name] == b[name] for name in BYTES))


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's names of the columns, which are what compression is given by."""
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]


def write_clip_shard(path: str | Path, rows: Iterable[Row]) -> int:
    """A clips shard; see SCHEMAS['clips']."""
    return write_shard(path, rows, SCHEMAS["clips"])


def _check(row: Row, schema: pa.Schema, index: int) -> None:
    unlike = sorted(set(row) ^ set(schema.names))
    if unlike:
        raise ValueError(f"row {index} and the shard's schema differ in {unlike}. Give exactly {schema.names}.")
    null = [field.name for field in schema if not field.nullable and row[field.name] is None]
    if null:
        raise ValueError(f"row {index} has no value for {null}, which may not be null.")


def iter_rows(path: str | Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Every row as a dict, one held at a time; `columns` spares reading the others. Raises ValueError for an unknown column."""
    with pq.ParquetFile(path) as file:
        held_by, held = _held_by(file), {}
        for i in range(file.num_row_groups):
            row: Row = file.read_row_group(i, _known(file, columns)).to_pylist()[0]
            if i not in held_by:
                held = {name: row[name] for name in BYTES if name in row}
            yield row | held if i in held_by else row


def read_rows(path: str | Path, columns: Sequence[str] | None = None) -> list[Row]:
    """Every row; shots share the bytes of their file. Raises as `iter_rows`."""
    return list(iter_rows(path, columns))


def read_row(path: str | Path, i: int, columns: Sequence[str] | None = None) -> Row:
    """Row `i` alone. Raises as `some_rows`."""
    (row,) = some_rows(path, [i], columns)
    return row


def some_rows(path: str | Path, which: Iterable[int], columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows `which` alone, one held at a time, with the bytes of their file wherever they lie. Raises IndexError, ValueError for an unknown column."""
    with pq.ParquetFile(path) as file:
        names, held_by = _known(file, columns), _held_by(file)
        for i in which:
            if not 0 <= i < file.num_row_groups:
                raise IndexError(f"{path} has rows 0 to {file.num_row_groups - 1}; {i} is asked for")
            row: Row = file.read_row_group(i, names).to_pylist()[0]
            wanted = [name for name in BYTES if name in row] if i in held_by else []
            yield row | file.read_row_group(held_by[i], wanted).to_pylist()[0] if wanted else row


def _held_by(file: pq.ParquetFile) -> dict[int, int]:
    """Row -> the row that has its bytes; most shards have none such."""
    said = (file.metadata.metadata or {}).get(HELD_BY, b"{}")
    return {int(i): holder for i, holder in json.loads(said).items()}


def count_rows(path: str | Path) -> int:
    """Number of rows, from the footer."""
    with pq.ParquetFile(path) as file:
        return file.metadata.num_rows


def _known(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[str] | None:
    if columns is None:
        return None
    unknown = sorted(set(columns) - set(file.schema_arrow.names))
    if unknown:
        raise ValueError(f"no column {unknown}; there are {file.schema_arrow.names}")
    return list(columns)
