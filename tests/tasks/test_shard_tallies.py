"""What a data card counts anew: the shards that are new, or of which something has changed; the others' tallies come from the card before."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import pytest

import tasks.shard_tallies as shard_tallies_module
import tasks.tables as tables
from pvtt_model.artifacts import Kind, Manifest, Planned, StoredFile, plan_artifact
from pvtt_model.data.tally import Tally, together
from tasks.pieces import REASONS, ROWS, pieces_of, read_piece
from tasks.shard_tallies import TALLIES, Counted, kept_tallies, shard_tallies
from tasks.tables import TABLE, attach_json, pool_json
from tests.tasks.test_ingest_clips import House, by_split, house
from tests.tasks.test_pieces import masks_of

__all__ = ["house"]
LATER: tuple[Kind, ...] = ("latents", "conditions")


class Desk:
    """Makes cards, and says which shards were counted for the last."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.house, self.monkeypatch, self.shards = house, monkeypatch, list[int]()
        self.masks: dict[str, Manifest] = {}
        count = shard_tallies_module._count

        def counting(store: Any, manifests: Any, facts: Any, *rest: Any) -> Any:
            self.shards = list(facts)
            return count(store, manifests, facts, *rest)

        monkeypatch.setattr(shard_tallies_module, "_count", counting)

    def committed(self, planned: Planned, name: str, value: Any, more: Sequence[StoredFile] = ()) -> Manifest:
        done = self.house.store.find(planned)
        return done or self.house.store.commit(planned, [*more, attach_json(self.house.store, planned, name, value)])

    def curated(self, clips: Manifest, lost: tuple[str, ...] = ()) -> dict[str, Manifest]:
        """The four artifacts: masks as they are made; latents and conditions as their steps leave them, in the clips' shards. lost: by latents."""
        if clips.version not in self.masks:
            self.masks[clips.version] = masks_of(self.house, clips, self.monkeypatch)
        plans = {kind: plan_artifact(kind, {"lost": lost}, (clips.name,)) for kind in LATER}
        said = {
            number: [{"clip_key": row["clip_key"], "usable": True, "caption": row["source"], "caption_source": "human"} for row in its]
            for number, its in ((n, read_piece(self.house.store, piece)) for n, piece in pieces_of(clips, ROWS).items())
        }
        rows = [pool_json(self.house.store, f"{ROWS}-{number:05d}.json", its) for number, its in said.items()]
        unusable = [{"clip_key": key, "usable": False, "reason": "lost"} for key in lost]
        latents = self.committed(plans["latents"], REASONS, unusable)
        conditions = self.committed(plans["conditions"], REASONS, [], rows)
        return {"clips": clips, "masks": self.masks[clips.version], "latents": latents, "conditions": conditions}

    def card(self, clips: Manifest, lost: tuple[str, ...] = (), **risky: float) -> tuple[dict[int, Counted], Tally]:
        self.shards = []
        thresholds = self.house.recipe.masks.model_copy(update=risky)
        counted = shard_tallies(self.house.store, self.curated(clips, lost), thresholds)
        self.committed(plan_artifact("cards", {"lost": lost, "risky": risky}, (clips.name,)), TALLIES, kept_tallies(counted))
        return counted, together(one.tally for one in counted.values())


def test_new_shards_alone_are_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, first = Desk(house, monkeypatch), house.make()
    counted, whole = desk.card(first)
    assert desk.shards == [0] and len(whole.keys) == len(house.read(first, TABLE)) == whole.sizes[64, 64]
    house.lines.insert(0, house.copy_of(by_split(house, "train"), "new.mp4", crf=40))
    again, more = desk.card(house.make())
    assert desk.shards == [1] and again[0] == counted[0] and list(again) == [0, 1]
    assert more.keys[: len(whole.keys)] == whole.keys and len(more.keys) == len(whole.keys) + 1
    assert desk.card(first)[1] == whole and desk.shards == []


def test_what_changes_a_count_is_counted_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, clips = Desk(house, monkeypatch), house.make()
    key = house.read(clips, TABLE)[0]["clip_key"]
    assert not desk.card(clips)[1].lost and desk.shards == [0]
    assert desk.card(clips, lost=(key,))[1].lost == {"latents": 1} and desk.shards == [0]
    whole = desk.card(clips, risky_area=1e-6)[1]
    assert whole.flags["at_risk"] == whole.risks["area"] == len(whole.areas) and desk.shards == [0]
    house.lines.remove(by_split(house, "train"))
    fewer = desk.card(house.make())[1]
    assert desk.shards == [0] and len(fewer.keys) == len(whole.keys) - 1


def test_a_clip_that_comes_to_be_held_out_is_counted_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shard is as it was; the clips' table says it."""
    desk, clips = Desk(house, monkeypatch), house.make()
    was = desk.card(clips)[1].flags["held_out"]
    read, seen = shard_tallies_module.read_json, []

    def read_json(store: Any, manifest: Manifest, name: str = TABLE, **more: Any) -> Any:
        value = read(store, manifest, name, **more)
        if name != TABLE:
            return value
        seen.append(next(fact["clip_key"] for fact in value if not fact["held_out"]))
        return [fact | {"held_out": fact["held_out"] or fact["clip_key"] == seen[0]} for fact in value]

    monkeypatch.setattr(shard_tallies_module, "read_json", read_json)
    assert desk.card(clips)[1].flags["held_out"] == was + 1 and desk.shards == [0]


@pytest.mark.parametrize("damage", ["lost", "other bytes"])
def test_a_cards_tallies_that_are_gone_are_counted_again(house: House, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    desk, clips = Desk(house, monkeypatch), house.make()
    whole = desk.card(clips)[1]
    (card,) = house.store.manifests("cards")
    tables._TABLES.clear()  # as in another process, on another machine
    shutil.rmtree(house.store.cache_dir, ignore_errors=True)
    path = house.root / "store" / card.file(TALLIES).key
    path.unlink()
    if damage == "other bytes":
        path.write_bytes(b"[]")
    assert desk.card(clips)[1] == whole and desk.shards == [0]
