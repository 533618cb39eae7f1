"""Parquet shards: one row a row group, so that one row can be read alone; the same rows give the same bytes.

Rows of one clip sit at the same shard index and row in clips, masks, latents and conditions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pvtt_model.data.tensor_rows import COLUMN, footer_entry

Row = dict[str, Any]


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
            "video": pa.binary(),  # the source file's bytes
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
            "risk": pa.string(),  # why an edit of this clip is likely to fail
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

    zstd but for the column 'tensors', which tensor_rows.py reads at its offset.
    """
    part, count = Path(f"{path}.part"), 0
    packed = {name: "none" if name == COLUMN else "zstd" for name in _leaves(schema)}
    said: list[tuple[str, bytes | None]] = []
    with pq.ParquetWriter(part, schema, compression=packed, use_dictionary=False, write_statistics=False) as writer:
        for row in rows:
            _check(row, schema, count)
            writer.write_table(pa.Table.from_pylist([row], schema=schema), row_group_size=1)
            count += 1
            if COLUMN in row:
                said.append((row["clip_key"], row[COLUMN]))
        if COLUMN in schema.names:
            writer.add_key_value_metadata(footer_entry([key for key, _ in said], [data for _, data in said]))
    os.replace(part, path)
    return count


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


def read_rows(path: str | Path, columns: Sequence[str] | None = None) -> list[Row]:
    """Every row as a dict; `columns` spares reading the others. Raises ValueError for an unknown column."""
    with pq.ParquetFile(path) as file:
        return [file.read_row_group(i, _known(file, columns)).to_pylist()[0] for i in range(file.num_row_groups)]


def read_row(path: str | Path, i: int, columns: Sequence[str] | None = None) -> Row:
    """Row `i` alone. Raises IndexError, ValueError for an unknown column."""
    with pq.ParquetFile(path) as file:
        if not 0 <= i < file.num_row_groups:
            raise IndexError(f"{path} has rows 0 to {file.num_row_groups - 1}; {i} is asked for")
        return file.read_row_group(i, _known(file, columns)).to_pylist()[0]


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
