"""What must not be taken over from an earlier version of the clips."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch

import tasks.extract_masks as extract_masks
import tasks.ingest_clips as ingest
from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest
from pvtt_model.chain import masks_artifact
from pvtt_model.data import video_io
from pvtt_model.data.decoder import DecodeTimeout
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.nano.world import render_clip
from tasks.clip_table import Curated, clip_places
from tests.tasks.test_ingest_clips import WORLD, House, by_split, house

__all__ = ["house"]


def change(house: House, **clips: Any) -> None:
    house.recipe = house.recipe.model_copy(update={"clips": house.recipe.clips.model_copy(update=clips)})


def of_source(house: House, made: Manifest, name: str, source: str) -> list[Any]:
    return [row for row in house.read(made, name) if row["source"] == source]


def film(house: House, name: str, *shots: torch.Tensor) -> dict[str, Any]:
    """A line of a film of these shots, a product of its own."""
    frames = torch.cat(shots)
    write_mp4(house.at / name, frames, 8, crf=18, chroma="444")
    metadata = {"resolution": [64, 64], "fps": 8, "num_frames": len(frames), "product_id": name, "split": "train"}
    return {k: v for k, v in by_split(house, "train").items() if k != "mask_path"} | {"video_path": name, "metadata": metadata}


def masks_of(house: House, clips: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(extract_masks, "map_units", lambda store, function, units, **_: [function(unit) for unit in units])
    ref = ArtifactRef(kind="clips", version=clips.version, uri=house.store.store.uri)
    return extract_masks._make(house.store, masks_artifact(house.recipe, ref.name), ref, house.recipe)


def test_a_corrected_mask_makes_its_clip_usable(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old row, of the same clip_key, is still in its shard."""
    line = house.lines[0]
    good = line["mask_path"]
    (house.at / "bad").mkdir()
    for k in range(WORLD.num_frames):
        (house.at / "bad" / f"{k:05d}.png").write_bytes(png_bytes(torch.zeros(64, 64, dtype=torch.bool)))
    line["mask_path"] = "bad"
    assert masks_of(house, house.make(), monkeypatch).summary["refused"] == 1
    line["mask_path"] = good
    clips = house.make()
    masks = masks_of(house, clips, monkeypatch)
    assert (masks.summary["usable"], masks.summary["refused"]) == (10, 0)
    refs = [ArtifactRef(kind=m.kind, version=m.version, uri=house.store.store.uri) for m in (clips, masks)]
    places = clip_places(house.store, Curated(refs[0], refs[1], refs[1], refs[1]))  # the masks' table stands for the later ones
    assert len(places) == 10


@pytest.mark.parametrize("shots", [("ignore", "refuse"), ("refuse", "ignore")])
def test_what_a_base_judged_by_other_settings_is_judged_anew(house: House, shots: tuple[str, str]) -> None:
    house.lines.append(film(house, "cut.mp4", render_clip(WORLD, 0).frames_TCHW[:2], render_clip(WORLD, 3).frames_TCHW))
    change(house, shots=shots[0])
    first = house.make()
    change(house, shots=shots[1])
    house.make(base=first)
    house.lines = house.lines[1:]
    with_history = house.make()
    house.store = ArtifactStore.open(house.root / "fresh")
    fresh = house.make()
    assert with_history.version == fresh.version and with_history.summary == fresh.summary
    assert fresh.summary["refused_by_kind"] == ({"shot_cut": 1} if shots[1] == "refuse" else {})


def test_what_an_older_revision_judged_is_judged_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REVISIONS, "clips", 98)
    first = house.make()
    monkeypatch.setitem(REVISIONS, "clips", 99)
    house.make(base=first)
    house.lines = house.lines[1:]
    house.make()
    assert len(list((house.root / "store" / "derived" / "clips").rglob("*.json"))) == 2


def test_a_shot_that_leaked_in_the_base_is_not_lost(house: House) -> None:
    held = house.lines.index(by_split(house, "eval"))
    world = WORLD.model_copy(update={"num_frames": 8})
    house.lines.append(film(house, "film.mp4", render_clip(world, 0).frames_TCHW, render_clip(WORLD, held).frames_TCHW))
    change(house, shots="split")
    first = house.make()
    assert [len(of_source(house, first, name, "film.mp4")) for name in ("table.json", "refusals.json", "leaked.json")] == [1, 1, 1]
    house.lines.append(house.copy_of(house.lines[1], "more.mp4", product_id="more"))
    house.make(base=first)
    house.lines[-1] |= {"text_prompt": "Other words."}
    third = house.make()
    assert [len(of_source(house, third, name, "film.mp4")) for name in ("table.json", "refusals.json", "leaked.json")] == [1, 1, 1]


def test_a_shard_that_the_store_has_lost_is_made_anew(house: House) -> None:
    first = house.make()
    (house.root / "store" / first.shards()[0].key).unlink()
    shutil.rmtree(house.store.cache_dir, ignore_errors=True)
    house.lines[-1] |= {"text_prompt": house.lines[-1]["text_prompt"] + " "}
    assert house.make().summary["accepted"] == 10


def test_refusals_that_may_pass_are_not_taken_over(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = video_io.look, [1]

    def busy(*given: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise DecodeTimeout("the video was not decoded in 120 s and its decoder was killed.")
        return real(*given, **named)

    monkeypatch.setattr(video_io, "look", busy)
    first = house.make()
    assert first.summary["refused_by_kind"] == {"decode_timeout": 1}
    assert house.make(base=first).summary["refused"] == 0
    house.lines = house.lines[::-1]
    assert house.make().summary["refused"] == 0


def test_a_version_that_cannot_be_read_is_passed_over(house: House) -> None:
    house.make()
    folder = house.root / "store" / "clips" / ("f" * 20)
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"kind": "clips", "version": "f" * 20, "newer": 1}))
    house.lines = house.lines[:-1]
    assert house.make().summary["accepted"] == 9


def test_a_folder_without_a_clip_says_so(house: House) -> None:
    (house.root / "empty").mkdir()
    with pytest.raises(ingest.AllClipsRefused, match="holds no clip"):
        house.make(house.root / "empty")
