"""Latents and conditions through a real store, their units worked off here instead of on Ray: what encoded them is recorded, and must agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, load_file, save_file

import tasks.describe_data as card_task
import tasks.embed_conditions as conditions_task
import tasks.encode_latents as latents_task
import tasks.extract_masks as masks_task
import tasks.shard_work as work
from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import ArtifactRef, Manifest, plan_artifact
from pvtt_model.chain import card_artifact, conditions_artifact, latents_artifact, masks_artifact
from pvtt_model.data.shards import SCHEMAS, read_rows, write_shard
from pvtt_model.nano.shipped import index, shipped_folder
from pvtt_model.recipes import recipe_by_name
from tasks.pieces import rows_beside
from tasks.tables import attach_json, read_json
from tests.tasks.test_extract_masks import clip_row

CAPTIONS = [{"text": "A cup by a window.", "source": "qwen2.5-vl-7b@abc1"}]


class House:
    """Two shards of one nano clip each, and what curation makes of them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PVTT_HOME", str(root))
        self.store, self.shown = ArtifactStore.open(str(root / "store")), {}
        self.made: list[str] = []
        for task in (masks_task, latents_task, conditions_task, card_task):
            monkeypatch.setattr(task, "show_markdown", lambda key, text, description: self.shown.update({key: text}))
            if task is not card_task:
                monkeypatch.setattr(task, "map_units", self.map_units)
        rows = [clip_row(root, 0, metadata=json.dumps({"captions": CAPTIONS})), clip_row(root, 1)]
        files = []
        for i, row in enumerate(rows):
            write_shard(root / f"{i}.parquet", [row], SCHEMAS["clips"])
            files.append(self.store.pool(root / f"{i}.parquet", f"shard-{i:05d}.parquet", rows=1))
        planned = plan_artifact("clips", {"of": "this test"})
        facts = [{name: row[name] for name in work.FACTS} | {"shard": i, "row": 0, "held_out": i == 1} for i, row in enumerate(rows)]
        files += [attach_json(self.store, planned, name, value) for name, value in (("table.json", facts), ("refusals.json", []))]
        files.append(attach_json(self.store, planned, "duplicates.json", []))
        self.clips = self.ref(self.store.commit(planned, files, {}))

    def map_units(self, store: Any, function: Any, units: list[Any], **_: Any) -> list[Any]:
        return [function(unit) for unit in units]

    def ref(self, manifest: Manifest) -> ArtifactRef:
        return ArtifactRef(kind=manifest.kind, version=manifest.version, uri=self.store.store.uri)

    def masks(self, recipe: Any) -> Manifest:
        return masks_task._make(self.store, masks_artifact(recipe, self.clips.name), self.clips, recipe)

    def latents(self, recipe: Any, masks: Manifest) -> Manifest:
        return latents_task._make(self.store, latents_artifact(recipe, self.clips.name, masks.name), self.clips, self.ref(masks), recipe)

    def conditions(self, recipe: Any) -> Manifest:
        return conditions_task._make(self.store, conditions_artifact(recipe, self.clips.name), self.clips, recipe)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    forget()
    return House(tmp_path, monkeypatch)


def forget() -> None:
    """As another process, or another node, which has loaded nothing."""
    work._keeper.cache_clear()
    work._records.clear()


def test_every_artifact_says_what_encoded_it(house: House) -> None:
    clip = {"architecture": "nano-openclip", "weights": "seed:4"}
    recipe = recipe_by_name("nano", {"latents.references": "own", "conditions.clip_encoder": clip, "conditions.captions": ["qwen2.5-vl-7b"]})
    masks = house.masks(recipe)
    latents, conditions = house.latents(recipe, masks), house.conditions(recipe)
    assert masks.summary["encoders"] == {}, "the manifest gave them"
    (weights,) = (sha for file, sha in latents.summary["encoders"]["vae"]["files"].items() if file.endswith(".safetensors"))
    assert weights == index()["vae"]["sha256"]
    said = conditions.summary["encoders"]
    assert set(said) == {"text", "image", "clip"} and said["clip"]["files"] == {} and said["clip"]["weights"] == "seed:4"
    assert said["image"]["files"] == {"model.safetensors": index()["dinov2"]["sha256"]}
    assert load(read_rows(house.store.local_path(latents.shards()[0]))[0]["tensors"])["references_NCFHW"].shape[2] == 1
    assert "clip_NPC" in load(read_rows(house.store.local_path(conditions.shards()[0]))[0]["tensors"])
    table = [row for rows in rows_beside(house.store, conditions, read_json(house.store, house.store.manifest(house.clips))) for row in rows]
    assert [(r["caption"], r["caption_source"], r["caption_fallback"]) for r in table] == [
        ("A cup by a window.", "qwen2.5-vl-7b@abc1", False), ("A cup.", "the manifest, which does not say", True),
    ]  # fmt: skip
    assert conditions.summary["fallback_captions"] == 1 and conditions.summary["captions"]["qwen2.5-vl-7b@abc1"] == 1

    data = {"clips": house.clips, "masks": house.ref(masks), "latents": house.ref(latents), "conditions": house.ref(conditions)}
    card = card_task._make(house.store, card_artifact(recipe, *(ref.name for ref in data.values())), data, recipe)
    for task, manifest in ((latents_task, latents), (conditions_task, conditions), (card_task, card)):
        task._show(house.store, manifest)
    values, page = (house.store.local_path(card.file(name)).read_text() for name in ("data_card.json", "data_card.html"))
    assert [row["encoder"] for row in json.loads(values)["encoders"]] == ["latents: vae", "conditions: text", "conditions: image", "conditions: clip"]
    for text in (page, house.shown["data-card"], house.shown["latents"]):
        assert index()["vae"]["sha256"] in text
    assert "none: made from its seed" in house.shown["conditions"] and "1 captions are fallbacks" in house.shown["conditions"]


def test_units_found_again_keep_their_record(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_by_name("nano")
    masks = house.masks(recipe)
    first = house.latents(recipe, masks), house.conditions(recipe)
    forget()
    for manifest in first:  # not done after all; their units are
        (Path(house.store.store.uri) / manifest.name / "manifest.json").unlink()
    for name in ("load_vae", "load_text_encoder", "load_image_encoder"):
        module = {"load_vae": "vae", "load_text_encoder": "text", "load_image_encoder": "image"}[name]
        monkeypatch.setattr(f"pvtt_model.backbones.{module}.{name}", lambda *_: pytest.fail("loaded although every unit is done"))
    again = house.latents(recipe, masks), house.conditions(recipe)
    assert [m.summary for m in again] == [m.summary for m in first] and again[0].commit_id != first[0].commit_id


def test_two_nodes_with_other_weights_at_one_path_are_refused(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "vae"
    shutil.copytree(shipped_folder("nano:vae"), folder)
    recipe = recipe_by_name("nano", {"latents.vae": {"architecture": "nano-vae", "weights": str(folder)}})
    masks = house.masks(recipe)

    def two_nodes(store: Any, function: Any, units: list[Any], **_: Any) -> list[Any]:
        first = function(units[0])
        forget()
        path = folder / "diffusion_pytorch_model.safetensors"
        state = load_file(path)
        save_file({name: tensor + 0.001 for name, tensor in state.items()}, path)
        return [first, function(units[1])]

    house.map_units = two_nodes  # type: ignore[method-assign]
    latents_task.map_units = two_nodes
    with pytest.raises(
        ValueError, match="units 0 and 1 were made with different weights of 'vae'.*diffusion_pytorch_model.safetensors [0-9a-f]{12} ag"
    ):
        house.latents(recipe, masks)
    pinned = recipe_by_name("nano", {"latents.vae": {"architecture": "nano-vae", "weights": str(folder), "revision": "as of today"}})
    latents_task.map_units = House.map_units.__get__(house)
    forget()
    assert house.latents(pinned, masks).summary["encoders"]["vae"]["revision"] == "as of today", "named anew, the units are made anew"


def test_a_shard_without_clips_records_nothing_and_breaks_nothing(house: House, tmp_path: Path) -> None:
    write_shard(tmp_path / "empty.parquet", [], SCHEMAS["clips"])
    write_shard(tmp_path / "none.parquet", [], SCHEMAS["masks"])
    inputs = tuple(house.store.pool(tmp_path / name, name, rows=0) for name in ("empty.parquet", "none.parquet"))
    made = work.latent_shard(work.Unit(house.store.store.uri, "latents", "k", 0, recipe_by_name("nano"), inputs))
    assert made.summary == {"latents": [], "encoders": {}}


def test_masks_record_the_model_that_found_them(house: House) -> None:
    encoder = recipe_by_name("nano").conditions.image_encoder.model_dump()
    recipe = recipe_by_name("nano", {"masks.provider": "grabcut", "masks.image_encoder": encoder, "masks.max_area": 1.0, "masks.min_area": 0.0})
    manifest = house.masks(recipe)
    assert manifest.summary["encoders"] == {
        "image": {
            "architecture": "nano-dinov2",
            "weights": "nano:dinov2",
            "revision": None,
            "files": {"model.safetensors": index()["dinov2"]["sha256"]},
        }
    }
    masks_task._show(house.store, manifest, house.clips, recipe)
    assert index()["dinov2"]["sha256"] in house.shown["masks"]
