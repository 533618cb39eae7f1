"""The tensors of a shard's rows, read at their offset: one read a row, no Parquet decoded, no copy after it.

A shard with a column 'tensors' (latents, conditions) keeps it uncompressed, one row a row group, so that a row's safetensors bytes are the
end of that column's chunk; the footer says where the chunk is, and, under 'pvtt.tensors', each row's clip_key, length and SHA-256.
Any Parquet reader reads the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

COLUMN, KEY = "tensors", b"pvtt.tensors"
FOOTER_BYTES = 1 << 16  # of a shard's end, read first: the footer of some 64 rows
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32}
_DTYPES |= {"I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}

#: read(offset, length) -> exactly those bytes of the shard, uint8, the caller's to write to.
ReadRange = Callable[[int, int], np.ndarray]


class RowPlace(NamedTuple):
    """Where the tensors of one row lie. length 0: the row has none (an unusable clip)."""

    clip_key: str
    offset: int
    length: int
    sha256: str


def entry(clip_key: str, tensors: bytes | None) -> tuple[str, int, str]:
    """What the footer says of a row: clip_key, bytes, their SHA-256."""
    return clip_key, len(tensors or b""), hashlib.sha256(tensors or b"").hexdigest()


def footer_entry(rows: Sequence[tuple[str, int, str]]) -> dict[bytes, bytes]:
    """What write_shard adds to the footer: the rows' entries, in order."""
    return {KEY: json.dumps(rows, separators=(",", ":")).encode()}


def row_places(read: ReadRange, size: int, name: str) -> list[RowPlace]:
    """The rows of a shard of `size` bytes, from its footer alone (one read, two where it is long). Raises ValueError for another kind of file."""
    tail = read(max(0, size - FOOTER_BYTES), min(size, FOOTER_BYTES)).tobytes()
    wanted = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] != b"PAR1" or wanted > size:
        raise ValueError(f"{name} does not end as a Parquet file does; it is cut off or of another kind. Fetch it again.")
    if wanted > len(tail):
        tail = read(size - wanted, wanted).tobytes()
    footer = pq.read_metadata(pa.BufferReader(tail))
    said = (footer.metadata or {}).get(KEY)
    if said is None:
        raise ValueError(f"{name} has no '{KEY.decode()}' in its footer: it was written by an older version. Run curation again.")
    column = footer.schema.names.index(COLUMN)
    places = []
    for i, (key, length, sha256) in enumerate(json.loads(said)):
        chunk = footer.row_group(i).column(column)
        end = chunk.data_page_offset + chunk.total_compressed_size
        if chunk.compression != "UNCOMPRESSED" or length > chunk.total_compressed_size:
            raise ValueError(f"{name}, row {i}: the column '{COLUMN}' is {chunk.compression}, {chunk.total_compressed_size} bytes for {length}.")
        places.append(RowPlace(key, end - length, length, sha256))
    return places


class TensorRows:
    """A shard's tensors by row. Local where it is opened from a path; else through `read`, each row then held against its SHA-256."""

    def __init__(self, read: ReadRange, size: int, name: str, check: bool) -> None:
        self.name, self._read, self._check = name, read, check
        self.places = row_places(read, size, name)

    @classmethod
    def open(cls, path: Path) -> TensorRows:
        """A local file, whose hash was checked when it was fetched: its rows are not hashed again."""
        file = open(path, "rb")  # noqa: SIM115 - open as long as this object: one read a row

        def read(offset: int, length: int) -> np.ndarray:
            buffer = np.empty(length, np.uint8)
            if os.preadv(file.fileno(), [buffer.data], offset) != length:
                raise ValueError(f"{path} ends before {offset + length} bytes: it is cut off. Fetch it again.")
            return buffer

        return cls(read, os.fstat(file.fileno()).st_size, str(path), check=False)

    def __len__(self) -> int:
        return len(self.places)

    def read(self, i: int) -> dict[str, Tensor]:
        """The tensors of row `i` by name; {} of an unusable row. They share one buffer, which is the caller's.

        Raises IndexError, and ValueError where the bytes are not those that were written.
        """
        if not 0 <= i < len(self.places):
            raise IndexError(f"{self.name} has rows 0 to {len(self.places) - 1}; {i} is asked for")
        place = self.places[i]
        if not place.length:
            return {}
        data = self._read(place.offset, place.length)
        if self._check and not _is(data, place):
            data = self._read(place.offset, place.length)  # an answer may be spoilt on its way
            if not _is(data, place):
                raise ValueError(f"{self.name}, row {i} ({place.clip_key}): twice not the bytes of SHA-256 {place.sha256}: the shard is corrupt.")
        return tensors_of(data)


def _is(data: np.ndarray, place: RowPlace) -> bool:
    return hashlib.sha256(data.data).hexdigest() == place.sha256


def tensors_of(data: np.ndarray) -> dict[str, Tensor]:
    """The tensors of safetensors bytes (uint8) by name, over the same memory. Raises ValueError for bytes that are none."""
    size = len(data)
    start_of_data = 8 + int.from_bytes(data[:8].tobytes(), "little")
    try:
        if size < 8 or start_of_data > size:
            raise ValueError(f"the header ends at byte {start_of_data}")
        header: dict[str, Any] = json.loads(data[8:start_of_data].tobytes())
        return {name: _tensor(data[start_of_data:], entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{size} bytes are no safetensors ({error!r}): they are cut off or altered. Fetch the shard again.") from None


def names_of(data: bytes) -> set[str]:
    """The names of the tensors in safetensors bytes that were just written; of none of an unusable row's."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")] or b"{}")
    return set(header) - {"__metadata__"}


def _tensor(data: np.ndarray, entry: dict[str, Any]) -> Tensor:
    start, end = entry["data_offsets"]
    if end > len(data):
        raise ValueError(f"a tensor ends at byte {end} of {len(data)}")
    return torch.from_numpy(data[start:end]).view(_DTYPES[entry["dtype"]]).view(entry["shape"])
