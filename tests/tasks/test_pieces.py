"""What a new version writes and reads of its tables, and that stores of before are still read."""

from __future__ import annotations

import json
from typing import Any

import pytest

import tasks.extract_masks as extract_masks
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest
from pvtt_model.chain import masks_artifact
from tasks.pieces import HASHES, REASONS, ROWS, find_unit, pieces_of, reasons, rows_beside, shards_of, whole_facts
from tests.tasks.test_ingest_clips import House, by_split, house

__all__ = ["house"]


def masks_of(house: House, clips: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(extract_masks, "map_units", lambda store, function, units, **_: [function(unit) for unit in units])
    ref = ArtifactRef(kind="clips", version=clips.version, uri=house.store.store.uri)
    return extract_masks._make(house.store, masks_artifact(house.recipe, ref.name), ref, house.recipe)


def test_a_new_clip_writes_the_pieces_of_its_shard_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    first = house.make()
    house.lines.insert(0, house.copy_of(by_split(house, "train"), "new.mp4", crf=40))
    second = house.make()
    assert [len(s.pieces) for s in shards_of(second)] == [2, 2] and shards_of(second)[0] == shards_of(first)[0]
    facts = house.facts(second)
    assert [f["line"] for f in facts] == list(range(1, 12)) and facts[0]["shard"] == 1, "where it stands is the version's own"
    assert all(f["prompt"] and f["width"] == 64 and "frame_hashes" not in f for f in facts)
    masks = masks_of(house, second, monkeypatch)
    (old, _), table = pieces_of(masks, ROWS).values(), house.read(second, "table.json")
    assert pieces_of(masks_of(house, first, monkeypatch), ROWS)[0] == old
    rows = [row for of_shard in rows_beside(house.store, masks, table) for row in of_shard]
    assert [r["clip_key"] for r in rows] == [f["clip_key"] for f in sorted(table, key=lambda f: (f["shard"], f["row"]))]
    assert house.read(masks, REASONS) == [] and masks.summary["usable"] == 11
    kept = house.store.gc(grace_s=0)
    assert not [garbage for garbage in kept if garbage.key.startswith("pool/")] and house.store.verify().ok


def test_only_the_asked_clips_pieces_are_read(house: House) -> None:
    house.make()
    house.lines.append(house.copy_of(by_split(house, "train"), "new.mp4", crf=40))
    made = house.make()
    (house.root / "store" / pieces_of(made, ROWS)[0].key).unlink()
    (last,) = [fact for fact in house.read(made, "table.json") if fact["shard"] == 1]
    assert whole_facts(house.store, made, [last])[0]["num_frames"]


def test_a_unit_recorded_before_there_were_pieces_is_not_made_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = house.make()
    masks = masks_of(house, clips, monkeypatch)
    (record,) = (house.root / "store" / "derived" / "masks").glob("*.json")
    said = json.loads(record.read_text())
    rows = json.loads(house.store.local_path(pieces_of(masks, ROWS)[0]).read_text())
    record.write_text(json.dumps(said | {"files": said["files"][:1], "summary": said["summary"] | {"masks": rows}}))
    found = find_unit(house.store, "masks", record.stem)
    assert found is not None and [f.sha256 for f in found.files] == [f["sha256"] for f in said["files"]] and found.summary == said["summary"]


def test_a_table_of_before_is_read_as_it_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is no base."""
    made = house.make()
    whole: list[dict[str, Any]] = house.facts(made)
    (house.root / "store" / made.file("table.json").key).write_text("")  # not asked for again
    old = made.model_copy(update={"files": tuple(f for f in made.files if not f.name.startswith((ROWS, HASHES)))})
    assert whole_facts(house.store, old, whole) == whole
    rows = [{"clip_key": "a", "usable": True, "reason": None}, {"clip_key": "b", "usable": False, "reason": "no mask"}]
    monkeypatch.setattr("tasks.pieces.read_json", lambda store, manifest, name="table.json": rows)
    assert reasons(house.store, old) == rows[1:]
    assert list(rows_beside(house.store, old, [{"clip_key": "b", "shard": 0, "row": 5}])) == [[rows[1]]]
    monkeypatch.setattr(house.store, "find", lambda name: old)
    monkeypatch.setitem(REVISIONS, "clips", 99)
    import tasks.ingest_clips as ingest

    with pytest.raises(ValueError, match="made before tables lay in pieces"):
        ingest._can_be_added_to(old, house.recipe)
