"""A shard's tensors at their offset: the same bits as Parquet's own reader gives, and nothing else accepted."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from pvtt_model.data.shards import SCHEMAS, read_row, read_rows, write_shard
from pvtt_model.data.tensor_rows import FOOTER_BYTES, TensorRows, row_places, tensors_of


def rows_of(count: int, scale: int = 1) -> list[dict[str, Any]]:
    """Row 1 is unusable; shapes and dtypes differ from row to row."""
    g = torch.Generator().manual_seed(count)
    rows = []
    for i in range(count):
        z = {"a": torch.randn(3 + i, 5 * scale, generator=g).bfloat16(), "bits": torch.arange(7, dtype=torch.uint8), "none": torch.zeros(0, 4)}
        z |= {"whole": torch.tensor(i), "flag": torch.tensor([True, False]), "half": torch.randn(i + 1, generator=g).half()}
        rows.append({"clip_key": f"clip{i}", "usable": i != 1, "reason": None, "tensors": None if i == 1 else save(z)})
    return rows


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def shard(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    rows = rows_of(5)
    write_shard(tmp_path / "x.parquet", rows, SCHEMAS["latents"])
    return tmp_path / "x.parquet", rows


@pytest.mark.parametrize("kind", ["latents", "conditions"])
def test_every_row_is_what_was_written_and_what_parquet_reads(tmp_path, kind):
    rows = rows_of(5)
    path = tmp_path / "x.parquet"
    write_shard(path, rows, SCHEMAS[kind])
    opened = TensorRows.open(path)
    assert len(opened) == 5 and [p.clip_key for p in opened.places] == [r["clip_key"] for r in rows]
    assert read_rows(path) == rows
    for i in (3, 0, 4, 2):
        assert same(opened.read(i), load(rows[i]["tensors"])) and same(opened.read(i), load(read_row(path, i)["tensors"]))
        assert opened.places[i].sha256 == hashlib.sha256(rows[i]["tensors"]).hexdigest()
    assert opened.read(1) == {} and opened.places[1].length == 0
    for i in (5, -1):
        with pytest.raises(IndexError, match="rows 0 to 4"):
            opened.read(i)


def test_what_is_read_is_the_callers_own(shard):
    opened = TensorRows.open(shard[0])
    opened.read(0)["a"].zero_()
    assert opened.read(0)["a"].any()


def test_one_read_for_the_footer_and_one_a_row(shard):
    path, rows = shard
    data, asked = np.frombuffer(path.read_bytes(), np.uint8), []

    def read(offset: int, length: int) -> np.ndarray:
        asked.append(length)
        return data[offset : offset + length].copy()

    opened = TensorRows(read, len(data), "x", check=True)
    assert len(asked) == 1
    for i in range(5):
        opened.read(i)
    assert asked[1:] == [len(r["tensors"]) for r in rows if r["tensors"]], "exactly the row's bytes, an unusable row none"


def test_a_footer_longer_than_the_first_read(tmp_path):
    rows = rows_of(400)
    write_shard(tmp_path / "x", rows, SCHEMAS["latents"])
    data, asked = (tmp_path / "x").read_bytes(), []

    def read(offset: int, length: int) -> np.ndarray:
        asked.append(length)
        return np.frombuffer(data[offset : offset + length], np.uint8)

    assert len(row_places(read, len(data), "x")) == 400 and len(asked) == 2 and asked[1] > FOOTER_BYTES
    assert same(TensorRows.open(tmp_path / "x").read(399), load(rows[399]["tensors"]))


def test_an_altered_row_is_refused_where_rows_are_checked(shard):
    path, rows = shard
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    place = TensorRows.open(path).places[2]
    data[place.offset + place.length - 1] ^= 1
    opened = TensorRows(lambda offset, length: data[offset : offset + length].copy(), len(data), "far", check=True)
    assert same(opened.read(0), load(rows[0]["tensors"]))
    with pytest.raises(ValueError, match=r"far, row 2 \(clip2\): twice not the bytes of SHA-256 \w{64}: the shard is corrupt"):
        opened.read(2)


def test_an_answer_spoilt_once_is_asked_for_again(shard):
    path, rows = shard
    data, spoilt = np.frombuffer(path.read_bytes(), np.uint8), []

    def read(offset: int, length: int) -> np.ndarray:
        got = data[offset : offset + length].copy()
        if length == len(rows[3]["tensors"]) and not spoilt:
            spoilt.append(True)
            got[-1] ^= 1
        return got

    assert same(TensorRows(read, len(data), "far", check=True).read(3), load(rows[3]["tensors"])) and spoilt


def test_a_cut_file_and_another_kind_are_refused(shard, tmp_path):
    path, _ = shard
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cut off or of another kind"):
        TensorRows.open(cut)
    cut.write_bytes(b"")
    with pytest.raises(ValueError, match="cut off or of another kind"):
        TensorRows.open(cut)


def test_a_shard_that_is_cut_while_open_is_refused(shard):
    path, _ = shard
    opened = TensorRows.open(path)
    with open(path, "r+b") as file:
        file.truncate(200)
    with pytest.raises(ValueError, match="it is cut off"):
        opened.read(4)


def test_a_shard_without_the_footers_entry_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"clip_key": ["a"], "tensors": [b"x"]}), tmp_path / "old")
    with pytest.raises(ValueError, match="no 'pvtt.tensors' in its footer"):
        TensorRows.open(tmp_path / "old")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_altered_or_cut_bytes_are_refused_or_give_tensors_of_the_same_size(at, byte):
    good = save({"a": torch.arange(12.0).view(3, 4), "b": torch.ones(2, dtype=torch.uint8)})
    with pytest.raises(ValueError, match="are no safetensors"):
        tensors_of(np.frombuffer(good[: at % len(good)], np.uint8).copy())
    bad = bytearray(good)
    bad[at % len(good)] = byte
    with contextlib.suppress(ValueError):
        assert sum(t.numel() * t.element_size() for t in tensors_of(np.frombuffer(bad, np.uint8)).values()) <= len(good)


def test_equal_rows_give_equal_files(tmp_path):
    write_shard(tmp_path / "a", rows_of(4), SCHEMAS["latents"])
    write_shard(tmp_path / "b", rows_of(4), SCHEMAS["latents"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
