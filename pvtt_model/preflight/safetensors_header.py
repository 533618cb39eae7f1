"""The header of a .safetensors file: names, shapes and where the bytes end, without reading a tensor.

The format (huggingface.co/docs/safetensors): 8 bytes little-endian length N, N bytes of JSON {name: {dtype, shape, data_offsets: [from, to]}}, then
the bytes that the offsets count from. So a file cut short is known from its header and its size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

Shape = tuple[int, ...]
MOST_HEADER_BYTES = 100_000_000  # the library's own limit


class Header(NamedTuple):
    shapes: dict[str, Shape]
    bytes: int  # of the whole file, as the header has it


def read_header(path: Path) -> Header:
    """Raises ValueError, with what is wrong, for a file that is no safetensors file, or is not as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
            raise ValueError(f"{path} has {size:,} bytes, of which its header should be {length:,}: cut short, or no safetensors file")
        text = file.read(length)
    try:
        entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        raise ValueError(f"{path} has a header that cannot be read: no safetensors file, or damaged") from None
    if end != size:
        raise ValueError(f"{path} has {size:,} bytes, and its header says {end:,}: {'cut short' if size < end else 'something is written behind it'}")
    return Header(shapes, end)
