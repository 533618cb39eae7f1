"""The clips artifact on a real local store: leaks and near-duplicates, drafts, a base. Ray is left out: chunks are worked off in turn."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import tasks.ingest_clips as ingest
from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import ArtifactRef, Manifest
from pvtt_model.chain import clips_artifact
from pvtt_model.curation.frames import frames_and_mask
from pvtt_model.data.shards import read_row, read_rows
from pvtt_model.data.video_io import decode, png_bytes, write_mp4
from pvtt_model.nano.world import render_clip, write_world
from pvtt_model.recipes import NANO
from pvtt_model.specs import NanoWorldSpec, RecipeSpec, VideoSpec
from tasks.pieces import HASHES, pieces_of, read_piece, whole_facts
from tasks.tables import read_json

WORLD = NanoWorldSpec(num_clips=6, num_validation=1, num_eval=3, look_alikes=2)


class House:
    """A store, and the manifest of a few nano clips beside it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PVTT_HOME", str(root / "home"))
        monkeypatch.setattr(ingest, "map_units", lambda store, function, units, **_: [function(unit) for unit in units])
        monkeypatch.setattr(ingest, "get_run_logger", lambda: logging.getLogger("test"))
        monkeypatch.setattr(ingest, "show_markdown", lambda *_: None)
        self.root, self.at = root, root / "clips"
        self.store = ArtifactStore.open(root / "store")
        self.recipe: RecipeSpec = NANO.model_copy(update={"world": WORLD})
        write_world(WORLD, self.at)
        self.lines = [json.loads(line) for line in (self.at / "manifest.jsonl").read_text().splitlines()]

    def make(self, clips: Path | None = None, base: Manifest | None = None) -> Manifest:
        if clips is None:
            clips = self.root / "clips" / "mine.jsonl"
            clips.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        source = ingest._Source(str(clips), self.recipe, self.store.store.uri)
        ref = ArtifactRef(kind="clips", version=base.version, uri=self.store.store.uri) if base else None
        planned = clips_artifact(self.recipe, source.fingerprint(), ref.name if ref else None)
        return ingest._make(self.store, planned, self.recipe, source, ref)

    def read(self, manifest: Manifest, name: str) -> Any:
        return read_json(self.store, manifest, name)

    def facts(self, manifest: Manifest) -> list[dict[str, Any]]:
        """All that is known of the clips in the table."""
        return whole_facts(self.store, manifest, self.read(manifest, "table.json"))

    def copy_of(self, line: dict[str, Any], name: str, crf: int = 23, **metadata: Any) -> dict[str, Any]:
        """The same clip encoded anew, as a line of a product of its own."""
        index = self.lines.index(line)
        write_mp4(self.at / name, render_clip(WORLD, index).frames_TCHW, 8, crf=crf, chroma="444")
        keep = {k: v for k, v in line["metadata"].items() if k not in ("truth", "split", "product_id")}
        return {k: v for k, v in line.items() if k != "mask_path"} | {"video_path": name, "metadata": keep | {"product_id": name} | metadata}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(tmp_path, monkeypatch)


def by_split(house: House, split: str) -> dict[str, Any]:
    return next(line for line in house.lines if line["metadata"]["split"] == split)


def test_the_nano_world_loses_nothing(house: House) -> None:
    made = house.make()
    assert (made.summary["accepted"], made.summary["refused"], made.summary["near_duplicates"]) == (10, 0, 0)
    facts, (hashes,) = house.facts(made), pieces_of(made, HASHES).values()
    seen = [read_piece(house.store, hashes)[fact["row"]] for fact in facts]
    assert all(len(frames) == 1536 and sha256 == fact["video_sha256"] for fact, (sha256, frames, _) in zip(facts, seen, strict=True))
    assert all(fact["video_sha256"].startswith(fact["clip_key"]) for fact in facts) and len(facts) == 10


def test_a_training_clip_like_a_held_out_one_is_refused_and_its_twin_named(house: House) -> None:
    held, kept, trained = by_split(house, "eval"), by_split(house, "validation"), by_split(house, "train")
    house.lines += [
        house.copy_of(held, "leak.mp4", split="train"),
        house.copy_of(kept, "leak_validation.mp4", split="train"),
        house.copy_of(trained, "twice.mp4", split="train"),
        house.copy_of(held, "also_judged.mp4", 30, split="eval"),
    ]
    made = house.make()
    refused = {r["source"]: r for r in house.read(made, "refusals.json")}
    assert set(refused) == {"leak.mp4", "leak_validation.mp4"} and {r["kind"] for r in refused.values()} == {"leaks_evaluation"}
    line = house.lines.index(held) + 1
    assert f"(line {line})" in refused["leak.mp4"]["reason"] or "also_judged.mp4" in refused["leak.mp4"]["reason"]
    assert "metadata.split" in refused["leak.mp4"]["reason"] and kept["video_path"] in refused["leak_validation.mp4"]["reason"]
    sources = {fact["source"] for fact in house.read(made, "table.json")}
    assert {"twice.mp4", "also_judged.mp4"} <= sources and not sources & set(refused) and made.summary["accepted"] == 12
    pairs = {frozenset((p["source"], p["twin_source"])) for p in house.read(made, "duplicates.json")}
    assert {frozenset(("twice.mp4", trained["video_path"])), frozenset(("leak.mp4", "also_judged.mp4"))} <= pairs and made.summary[
        "near_duplicates"
    ] == 5
    # Two runs over the same lines add nothing, and the refused are not judged again.
    again = house.make(base=made)
    assert again.summary["accepted"] == 12 and again.summary["refused_by_kind"] == {"leaks_evaluation": 2}
    assert again.shards() == made.shards() and house.read(again, "duplicates.json") == house.read(made, "duplicates.json")


def test_a_new_evaluation_clip_puts_its_old_twin_out_of_training(house: House) -> None:
    trained = by_split(house, "train")
    before = house.make()
    house.lines.append(house.copy_of(trained, "judged.mp4", split="eval"))
    after = house.make(base=before)
    assert [(r["source"], r["kind"]) for r in house.read(after, "refusals.json")] == [(trained["video_path"], "leaks_evaluation")]
    assert trained["video_path"] not in {fact["source"] for fact in house.read(after, "table.json")} and after.summary["accepted"] == 10


def test_a_training_clip_that_shows_the_right_edit_is_refused(house: House) -> None:
    held = by_split(house, "eval")
    index = house.lines.index(held)
    true = decode(house.at / held["metadata"]["truth"]["video_path"])
    leak = house.copy_of(held, "answer.mp4", split="train")
    write_mp4(house.at / "answer.mp4", true, 8, crf=20, chroma="444")
    house.lines.append(leak)
    made = house.make()
    (refusal,) = house.read(made, "refusals.json")
    assert refusal["source"] == "answer.mp4" and refusal["kind"] == "leaks_evaluation", refusal
    assert any(p["of_truth"] and p["twin_source"] == house.lines[index]["video_path"] for p in house.read(made, "duplicates.json"))
    again = house.make(base=made)
    assert house.read(again, "duplicates.json") == [] and again.summary["refused_by_kind"] == {"leaks_evaluation": 1}


def test_near_duplicates_are_not_looked_for_when_told(house: House) -> None:
    house.lines.append(house.copy_of(by_split(house, "eval"), "leak.mp4", split="train"))
    clips = house.recipe.clips.model_copy(update={"near_duplicate_bits": None})
    house.recipe = house.recipe.model_copy(update={"clips": clips})
    made = house.make()
    assert (made.summary["accepted"], made.summary["refused"], made.summary["near_duplicates"]) == (11, 0, 0)


def test_one_video_in_benchmark_and_training_is_a_leak_with_the_same_bytes(house: House) -> None:
    trained = by_split(house, "train")
    same = {k: v for k, v in trained["metadata"].items() if k not in ("product_id", "split")}
    tasks = [trained | {"metadata": same | {"product_id": f"p{i}", "split": "eval", "benchmark_task": str(i)}} for i in range(2)]
    house.lines += tasks
    made = house.make()
    (refusal,) = house.read(made, "refusals.json")
    assert refusal["kind"] == "leaks_evaluation" and "has the same bytes as" in refusal["reason"]
    assert made.summary["accepted"] == 11, "both tasks, and all but the leak"
    assert [p["exact"] for p in house.read(made, "duplicates.json")] == [True] * 3


def test_a_folder_is_drafted_and_the_draft_kept(house: House) -> None:
    at = house.root / "plain"
    at.mkdir()
    for i, name in enumerate(("a red mug", "a blue mug", "IMG_1")):
        shutil.copy(house.at / house.lines[i]["video_path"], at / f"{name}.mp4")
        (at / f"{name}.png").write_bytes(png_bytes(torch.full((3, 16, 16), 40 * i, dtype=torch.uint8)))
    (at / "notes.pdf").write_bytes(b"x")
    made = house.make(at)
    assert (made.summary["accepted"], made.summary["refused_by_kind"], made.summary["passed_over"]) == (2, {"no_prompt": 1}, 1)
    assert len(house.store.local_path(made.file("draft.jsonl")).read_text().splitlines()) == 3
    assert house.read(made, "passed_over.json")[0][0] == "notes.pdf" and made.summary["source"] == "plain"


def test_frames_by_times_go_through_a_masks_shard_and_no_base_of_other_times_is_taken(house: House) -> None:
    from tasks.shard_work import Unit, mask_shard

    before = house.make()
    latents = house.recipe.latents.model_copy(update={"video": VideoSpec(width=64, height=64, num_frames=5, fps=16)})
    house.recipe = house.recipe.model_copy(update={"latents": latents})
    with pytest.raises(ValueError, match="5 frames at fps None; the recipe wants 5 at 16.0. Ingest all clips anew"):
        house.make(base=before)
    made = house.make()  # nano's 5 frames at 8 a second, seen at 16: each twice, the last once
    (shard,) = made.shards()
    rows = read_rows(house.store.local_path(shard))
    assert {tuple(row["used_frames"]) for row in rows} == {(0, 0, 1, 1, 2)}
    unit = Unit(house.store.store.uri, "masks", "k" * 20, 0, house.recipe, (shard,))
    masks = read_rows(house.store.local_path(mask_shard(unit).files[0]))
    assert all(m["usable"] for m in masks)
    for row, mask in zip(rows, masks, strict=True):
        assert mask["mask"][0] == mask["mask"][1] and mask["mask"][2] == mask["mask"][3] and len(mask["mask"]) == 5, row["source"]


def test_shots_become_clips_and_are_not_taken_in_twice(house: House) -> None:
    world = WORLD.model_copy(update={"num_frames": 8})
    scenes = [render_clip(world, i).frames_TCHW for i in (0, 1, 2)]
    write_mp4(house.at / "three.mp4", torch.cat([scenes[1][:3], scenes[0], scenes[2]]), 8, chroma="444")
    template = {k: v for k, v in by_split(house, "train").items() if k != "mask_path"}
    metadata = {"resolution": [64, 64], "fps": 8, "num_frames": 19, "product_id": "three", "split": "train"}
    house.lines.append(template | {"video_path": "three.mp4", "metadata": metadata})
    refused = house.make()
    assert refused.summary["refused_by_kind"] == {"shot_cut": 1} and refused.summary["accepted"] == 10
    house.recipe = house.recipe.model_copy(update={"clips": house.recipe.clips.model_copy(update={"shots": "split"})})
    made = house.make()
    facts = [fact for fact in house.facts(made) if fact["source"] == "three.mp4"]
    assert [fact["start_s"] for fact in facts] == [0.375, 1.375] and made.summary["refused_by_kind"] == {"too_short": 1}
    _every_step_sees_each_shot(house, made, facts)
    house.lines[-1] = house.lines[-1] | {"text_prompt": "Another prompt."}
    again = house.make(base=made)
    assert again.summary["accepted"] == made.summary["accepted"] == 12, "an accepted line stays as it is, its shots too"


def _every_step_sees_each_shot(house: House, clips: Manifest, facts: list[dict[str, Any]]) -> None:
    """The shots' rows through masks and latents, as workers make them, and as editing and the card read them."""
    from tasks.shard_work import Unit, condition_shard, latent_shard, mask_shard

    number = facts[0]["shard"]
    shard = clips.shards()[number]
    path = house.store.local_path(shard)
    rows = [read_row(path, fact["row"]) for fact in facts]
    assert [row["video"] for row in rows] == [(house.at / "three.mp4").read_bytes()] * 2 and rows == [read_rows(path)[f["row"]] for f in facts]
    uri, recipe = house.store.store.uri, house.recipe
    masks = mask_shard(Unit(uri, "masks", "a" * 20, 0, recipe, (shard,))).files[0]
    latents = latent_shard(Unit(uri, "latents", "b" * 20, 0, recipe, (shard, masks)))
    made = {row["clip_key"]: row["usable"] for row in latents.summary["latents"]}
    assert all(made[fact["clip_key"]] for fact in facts), latents.summary
    conditions = condition_shard(Unit(uri, "conditions", "c" * 20, 0, recipe, (shard,)))
    assert conditions.files[0].rows == shard.rows and all(row["usable"] for row in conditions.summary["conditions"])
    seen = [
        frames_and_mask(row, read_row(house.store.local_path(masks), fact["row"]), recipe.latents.video)[0]
        for row, fact in zip(rows, facts, strict=True)
    ]
    assert (seen[0].float() - seen[1].float()).abs().mean() > 5, "each shot its own frames"


def test_what_changes_no_row_probes_nothing_again_and_frees_what_leaked(house: House) -> None:
    line = next(line for line in house.lines if line["metadata"].get("split") == "eval")
    house.lines.append(house.copy_of(line, "copy.mp4"))
    first = house.make()
    assert [r["kind"] for r in house.read(first, ingest.REFUSALS)] == ["leaks_evaluation"]
    keys = _records(house)
    clips, latents = house.recipe.clips, house.recipe.latents
    wider = latents.model_copy(update={"video": latents.video.model_copy(update={"width": 128})})
    house.recipe = house.recipe.model_copy(update={"clips": clips.model_copy(update={"near_duplicate_bits": None}), "latents": wider})
    second = house.make()
    assert _records(house) == keys and not house.read(second, ingest.REFUSALS)
    again = house.make(base=first)
    assert not house.read(again, ingest.REFUSALS), "a leak is judged anew where the threshold is another"
    assert {f["source"] for f in house.read(again, "table.json")} == {f["source"] for f in house.read(second, "table.json")}


def _records(house: House) -> list[str]:
    return sorted(path.stem for path in (house.root / "store" / "derived" / "clips").rglob("*.json"))


def test_a_clip_put_first_or_taken_out_costs_itself_alone(house: House) -> None:
    """No base is named: what an earlier version judged is known by its content, wherever it stands."""
    bad = {**house.lines[0], "video_path": "bad.mp4"}
    (house.at / "bad.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"x" * 99)
    added, house.lines = house.lines[2], [bad, *(line for i, line in enumerate(house.lines) if i != 2)]
    held = by_split(house, "eval")
    house.lines.append(house.copy_of(held, "leak.mp4", split="train"))
    first = house.make()
    keys = _records(house)
    house.lines.insert(0, added)
    second = house.make()
    assert len(_records(house)) == len(keys) + 1 and [s.sha256 for s in second.shards()[:1]] == [s.sha256 for s in first.shards()]
    (unit,) = (record for record in _records(house) if record not in keys)
    derived = house.store.find_derived("clips", unit)
    assert derived is not None and [c["source"] for c in derived.summary["clips"]] == [added["video_path"]], (
        "neither the bad nor the leak is probed again"
    )
    assert {r["source"]: (r["kind"], r["line"]) for r in house.read(second, "refusals.json")} == {
        "bad.mp4": ("unreadable_video", 2), "leak.mp4": ("leaks_evaluation", len(house.lines)),
    }  # fmt: skip
    facts = house.facts(second)
    assert [f["line"] for f in facts] == [1, *range(3, len(house.lines))] and [f["source"] for f in facts][0] == added["video_path"]
    by_place = {(s, r["clip_key"]): i for s, shard in enumerate(second.shards()) for i, r in enumerate(read_rows(house.store.local_path(shard)))}
    assert all(by_place[f["shard"], f["clip_key"]] == f["row"] for f in facts)
    assert house.read(second, "duplicates.json") == house.read(first, "duplicates.json")

    keys = _records(house)
    del house.lines[3]
    third = house.make()
    assert _records(house) == keys and [s.sha256 for s in third.shards()] == [s.sha256 for s in second.shards()]
    assert third.summary["accepted"] == second.summary["accepted"] - 1


def test_a_shard_of_which_little_is_used_is_left_behind(house: House) -> None:
    first = house.make()
    house.lines = house.lines[-4:]
    second = house.make()
    assert [s.sha256 for s in second.shards()] != [s.sha256 for s in first.shards()] and second.shards()[0].rows == 4


def test_other_settings_take_nothing_over(house: House) -> None:
    house.make()
    keys = _records(house)
    house.recipe = house.recipe.model_copy(update={"clips": house.recipe.clips.model_copy(update={"min_side_px": 33})})
    house.make()
    assert len(_records(house)) == 2 * len(keys)


def test_the_splits_of_the_base_stay(house: House) -> None:
    """New clips of old products go where the product was, whatever they say, and another eval_share moves no old product."""
    for line in house.lines:
        line["metadata"].pop("split")
    before = house.make()
    was = {f["product_id"]: f["held_out"] for f in house.read(before, "table.json")}
    assert 0 < sum(was.values()) < len(was)
    held, trained = (next(line for line in house.lines if was[line["metadata"]["product_id"]] is yes) for yes in (True, False))
    render = {"held.mp4": (held, "train"), "trained.mp4": (trained, "eval")}
    for number, (name, (line, split)) in enumerate(render.items()):
        frames = decode(house.at / line["video_path"])
        write_mp4(house.at / name, torch.roll(frames, (17 * (number + 1), 23), dims=(-2, -1)).flip(0), 8, crf=20, chroma="444")
        metadata = {k: v for k, v in line["metadata"].items() if k != "truth"}
        house.lines.append(line | {"video_path": name, "mask_path": None, "metadata": metadata | {"split": split}})
    house.recipe = house.recipe.model_copy(update={"clips": house.recipe.clips.model_copy(update={"eval_share": 0.9, "near_duplicate_bits": None})})
    after = house.make(base=before)
    facts = house.read(after, "table.json")
    assert {f["product_id"]: f["held_out"] for f in facts} == was and len(facts) == len(house.lines)
