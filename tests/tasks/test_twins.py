"""The pairs that `find_twins` finds, however many clips it compares at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tasks.twins as twins
from pvtt_model.data.duplicates import COLOUR_BYTES, HASHES, near_pairs

CLIPS, NEW, OF_SHARD, BITS = 40, 8, 7, 12.0


@pytest.mark.parametrize("block", [1, 10, 1000])
def test_new_clips_are_compared_with_all_of_before(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "BLOCK", block)
    draw = np.random.default_rng(0)
    steps = draw.integers(0, 256, (12, HASHES, 1, 16), np.uint8).repeat(2, 2)  # of each hash 16 bytes of weak steps, and all of them strong
    kinds = [its.tobytes() for its in steps]
    hashes = [(kinds[i % len(kinds)] + bytes(COLOUR_BYTES)).hex() if i % 5 else None for i in range(CLIPS)]
    facts: list[dict[str, Any]] = [
        {"clip_key": str(i), "source": f"{i}.mp4", "shard": i // OF_SHARD, "row": i % OF_SHARD, "held_out": False} for i in range(CLIPS)
    ]
    shards = {n: [[None, hashes[i], None] for i in range(n * OF_SHARD, min(CLIPS, (n + 1) * OF_SHARD))] for n in range(CLIPS // OF_SHARD + 1)}
    found = twins.find_twins(facts, BITS, [], CLIPS - NEW, shards.__getitem__)
    wanted = [(str(i), str(j)) for i, j, _ in near_pairs(hashes, BITS, CLIPS - NEW)]
    assert wanted and [(pair["clip_key"], pair["twin"]) for pair in found] == wanted
