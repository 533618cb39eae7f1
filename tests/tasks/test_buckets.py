"""Landscape and portrait clips in one shard, through curation's tasks to training batches, an edit and the pictures. Units run here, not on Ray."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import ArtifactRef, plan_artifact
from pvtt_model.chain import card_artifact, conditions_artifact, latents_artifact, masks_artifact
from pvtt_model.data.shards import SCHEMAS, read_row, write_shard
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.editing.edit import edit_clip
from pvtt_model.evaluation.contact_sheet import contact_sheet
from pvtt_model.evaluation.frames import edit_frames
from pvtt_model.evaluation.side_by_side import side_by_side
from pvtt_model.nano.world import render_clip, render_reference
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import BackboneSpec, NanoWorldSpec
from pvtt_model.training import step_loss
from pvtt_model.training.kept_samples import KeptSamples
from pvtt_model.training.samples import Place
from pvtt_model.training.schedule import samples_of
from pvtt_model.training.teacher import build_teacher
from tasks import describe_data, embed_conditions, encode_latents, extract_masks
from tasks.clip_table import Curated, clip_places
from tasks.ingest_clips import DUPLICATES, REFUSALS
from tasks.pieces import reasons
from tasks.shard_work import FACTS, model_of
from tasks.tables import attach_json
from tasks.train_pairs import place_ref, select_pairs

SOURCES = [(96, 64), (64, 96), (96, 64), (64, 96), (64, 96), (96, 64), (64, 96)]  # width, height; the last two are held out
RECIPE = recipe_by_name("nano", {"latents.video.width": 64, "latents.video.height": 48, "latents.video.buckets": [[48, 64]]})
BUCKET = {(96, 64): (64, 48), (64, 96): (48, 64)}


def clip_row(folder: Path, index: int) -> dict[str, Any]:
    width, height = SOURCES[index]
    world = NanoWorldSpec(num_clips=8, width=width, height=height)
    clip = render_clip(world, index)
    write_mp4(folder / "v.mp4", clip.frames_TCHW, 8)
    row: dict[str, Any] = dict.fromkeys(SCHEMAS["clips"].names)
    row |= {"clip_key": f"clip-{index}", "video": (folder / "v.mp4").read_bytes(), "mask": [png_bytes(m) for m in clip.mask_THW], "line": index + 1}
    row |= {"mask_format": "png", "references": [png_bytes(render_reference(world, clip.product, 0))], "prompt": clip.caption, "metadata": "{}"}
    row |= {"width": width, "height": height, "fps": 8.0, "num_frames": 5, "product_id": f"p{index}", "source": "v.mp4"}
    return row | {"split": "eval" if index >= 5 else "train"}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(store, the four artifacts, the data card's manifest), by the tasks' own code."""
    folder = tmp_path_factory.mktemp("buckets")
    patch = pytest.MonkeyPatch()
    patch.setenv("PVTT_HOME", str(folder))
    for task in (extract_masks, encode_latents, embed_conditions):
        patch.setattr(task, "map_units", lambda store, function, units, **_: [function(unit) for unit in units])
    store = ArtifactStore.open(str(folder / "store"))
    rows = [clip_row(folder, i) for i in range(len(SOURCES))]
    write_shard(folder / "clips.parquet", rows, SCHEMAS["clips"])
    facts = [{k: r[k] for k in FACTS} | {"shard": 0, "row": i, "held_out": r["split"] == "eval"} for i, r in enumerate(rows)]
    planned = plan_artifact("clips", {"of": "this test"})
    files = [store.pool(folder / "clips.parquet", "shard-00000.parquet", rows=len(rows))]
    files += [attach_json(store, planned, name, table) for name, table in (("table.json", facts), (REFUSALS, []), (DUPLICATES, []))]
    clips = store.commit(planned, files, {})

    def ref(manifest: Any) -> ArtifactRef:
        return ArtifactRef(kind=manifest.kind, version=manifest.version, uri=store.store.uri)

    refs = {"clips": ref(clips)}
    refs["masks"] = ref(extract_masks._make(store, masks_artifact(RECIPE, clips.name), refs["clips"], RECIPE))
    planned = latents_artifact(RECIPE, clips.name, refs["masks"].name)
    refs["latents"] = ref(encode_latents._make(store, planned, refs["clips"], refs["masks"], RECIPE))
    refs["conditions"] = ref(embed_conditions._make(store, conditions_artifact(RECIPE, clips.name), refs["clips"], RECIPE))
    card = describe_data._make(store, card_artifact(RECIPE, *(r.name for r in refs.values())), refs, RECIPE)
    yield store, Curated(**refs), card
    patch.undo()


def test_each_clip_is_encoded_at_its_buckets_size(curated: Any) -> None:
    store, refs, _ = curated
    shard = store.local_path(store.manifest(refs.latents).shards()[0])
    for i, source in enumerate(SOURCES):
        row = read_row(shard, i)
        width, height = BUCKET[source]
        assert row["usable"], row["reason"]
        tensors = load(row["tensors"])
        assert all(t.shape[1:] == (2, height // 8, width // 8) for t in tensors.values())


def test_batches_of_training_are_of_one_size(curated: Any) -> None:
    """What the model is shown, step by step: never two sizes at once, and over two epochs every sample twice."""
    store, refs, _ = curated
    usable = clip_places(store, refs)
    stage = RECIPE.stages[0]
    chosen = [place_ref(p, usable[p.clip_key][1], RECIPE.latents.video) for p in select_pairs(usable, stage.data, stage.name)]
    assert [p.bucket for p in chosen] == [BUCKET[size] for size in SOURCES[:5]]
    kept = KeptSamples([Place(p.clip_key, store.local_path(p.latents), store.local_path(p.conditions), p.row, p.bucket) for p in chosen])
    assert kept.buckets == (0, 1, 0, 1, 1)
    shown: list[tuple[int, ...]] = []

    def forward(*args: torch.Tensor) -> torch.Tensor:
        shown.append(tuple(args[0].shape))
        return torch.zeros_like(args[0])

    engine: Any = SimpleNamespace(device=torch.device("cpu"), forward=forward, teacher=SimpleNamespace(kind="vace", reads_image=False))
    stage = stage.model_copy(update={"objective": stage.objective.model_copy(update={"words_weight": 0.0})})
    used = []
    for step in range(5):
        split = {"seed": 1, "num_samples": 5, "micro_batch": 2, "num_workers": 1, "grad_accum": 1, "buckets": kept.buckets}
        draws = samples_of(step, 0, 0, **split)
        used += [index for _, index in draws]
        assert torch.isfinite(step_loss.micro_batch_loss(stage, engine, kept, torch.zeros(1, kept[0].text_LD.shape[1]), 24, draws))
        width, height = kept.places[draws[0][1]].bucket or (0, 0)
        assert shown[-1] == (2, kept[0].x0_CFHW.shape[0], 2, height // 8, width // 8)
    assert sorted(used) == sorted([0, 1, 2, 3, 4] * 2) and len(set(shown)) == 2


def test_a_sample_of_another_bucket_is_refused(curated: Any) -> None:
    store, refs, _ = curated
    latents, conditions = (store.local_path(store.manifest(r).shards()[0]) for r in (refs.latents, refs.conditions))
    with pytest.raises(ValueError, match=r"clip clip-0 was encoded at 64x48, its bucket is \(48, 64\). Re-run curation"):
        KeptSamples([Place("clip-0", latents, conditions, 0, (48, 64))])[0]


def test_the_card_counts_and_the_overlay_shows_whole_frames(curated: Any) -> None:
    store, refs, manifest = curated
    card = json.loads(store.local_path(manifest.file(describe_data.CARD)).read_text())
    assert card["buckets"] == {"48 x 64": 4, "64 x 48": 3} and card["usable"] == 7
    assert not any("bucket" in warning for warning in manifest.summary["warnings"]), "2:3 in 3:4 keeps eight ninths"
    masks = store.manifest(refs.masks)
    assert reasons(store, masks) == []
    with Image.open(store.local_path(masks.file(extract_masks.OVERLAY))) as sheet:
        pixels = np.array(sheet.convert("RGB"))
    tile_w, tile_h = 64 * 3, 48 * 3  # enlarged by a whole number
    assert pixels.shape[:2] == (6 * (tile_h + 4) + 4, 3 * (tile_w + 4) + 4)
    second = pixels[4 + tile_h + 4 :][:tile_h, 4:][:, :tile_w]  # the portrait clip's first frame, 32 of 64 wide
    assert (second[:, : 16 * 3] == 250).all() and (second[:, -16 * 3 :] == 250).all() and second[:, 16 * 3 : -16 * 3].std() > 5


def test_edits_of_both_sizes_are_made_and_shown_side_by_side(curated: Any, tmp_path: Path) -> None:
    store, refs, _ = curated
    stage = RECIPE.stages[0]
    base = BackboneSpec(architecture="nano-s", weights="seed:7")
    teacher = build_teacher(base, stage.reference, stage.lora, "nano-dinov2", None, torch.float32, 0).eval()
    edit = stage.edit.model_copy(update={"num_steps": 1, "baselines": ()})
    shards = {kind: store.local_path(store.manifest(getattr(refs, kind)).shards()[0]) for kind in Curated._fields}
    empty = torch.zeros(1, teacher.transformer.config.text_dim)
    rows = []
    for i, (other, size) in {5: (6, (64, 48)), 6: (5, (48, 64))}.items():
        template, product = ({kind: read_row(path, n) for kind, path in shards.items()} for n in (i, other))
        clip = template["clips"]
        known = {"truth_product_id": f"p{other}", "truth_video": clip["video"], "truth_mask": clip["mask"]}
        template["clips"] = clip | known
        rows.append(edit_clip(teacher, model_of("vae", RECIPE.latents.vae), template, product, empty, edit, RECIPE.latents, 24))
        frames = edit_frames(rows[-1], ("truth", "truth_round_trip"))
        assert all(v.shape[-2:] == size[::-1] and len(v) == 5 for name, v in frames.items() if name != "reference")
        factor = -(-128 // size[0])
        assert side_by_side(rows[-1]).shape == (5, 3, size[1] * factor, 5 * size[0] * factor + 4 * 4)
    with Image.open(contact_sheet(rows, tmp_path / "truth.png")) as sheet:
        both = sheet.size
    with Image.open(contact_sheet(rows[::-1], tmp_path / "again.png")) as sheet:
        assert sheet.size == both, "tiles that hold every size do not hang on the order"
    plain = [row | {"truth": [], "truth_mask": []} for row in rows]
    with Image.open(contact_sheet(plain, tmp_path / "plain.png")) as sheet:
        assert 1200 <= sheet.width <= 1450
