"""A training worker's shards: fetched whole, or read row by row where they lie."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from infra.artifact_store import ArtifactStore
from infra.store.s3 import S3Store
from pvtt_model.data.shards import SCHEMAS, write_shard
from tasks.train_worker import _shard

ROWS = 6


@pytest.fixture(params=["local", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return ArtifactStore.open(str(tmp_path / "store"), tmp_path / "cache")
    endpoint = str(request.getfixturevalue("moto_endpoint"))
    return ArtifactStore(S3Store(f"s3://pvtt/{uuid.uuid4().hex}", endpoint), tmp_path / "cache")


def test_ranges_read_what_the_cached_shard_holds_and_no_more(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [{"clip_key": f"c{i}", "usable": True, "reason": None, "tensors": save({"x": torch.randn(16, 40, 60)})} for i in range(ROWS)]
    write_shard(tmp_path / "s.parquet", rows, SCHEMAS["latents"])
    file = store.pool(tmp_path / "s.parquet", "s.parquet", rows=ROWS)
    far = _shard(store, file, "ranges")
    assert callable(far)
    asked: list[int] = []
    whole = store.store.get_range
    store.store.get_range = lambda key, offset, length: asked.append(length) or whole(key, offset, length)  # type: ignore[method-assign]
    opened = far()
    near = _shard(store, file, "cache")
    assert isinstance(near, Path) and len(asked) == 1, "the footer, once"
    for i in (4, 1, 5):
        got = opened.read(i)
        got["x"] += 0  # the caller's own to write to
        assert torch.equal(got["x"], load(rows[i]["tensors"])["x"])
    assert len(asked) == 4, "one request a row"
    assert sum(asked[1:]) <= 1.02 * 3 * len(rows[0]["tensors"])
