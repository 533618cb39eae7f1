"""The masks task through a real store, its units run here instead of on Ray: SAM 2 at a nano size, a second provider, the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tasks.extract_masks as task
from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import ArtifactRef, plan_artifact
from pvtt_model.chain import masks_artifact
from pvtt_model.curation.mask_risk import judged
from pvtt_model.data.shards import SCHEMAS, read_rows, write_shard
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.nano.world import render_clip, render_reference
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import NanoWorldSpec
from tasks.shard_work import mask_shard
from tasks.tables import TABLE, attach_json

SAM2 = {"architecture": "nano-sam2", "weights": "seed:6"}
WORLD = NanoWorldSpec(num_clips=2, num_frames=5)


def clip_row(folder: Path, index: int, **changes: Any) -> dict[str, Any]:
    world = render_clip(WORLD, index)
    write_mp4(folder / "v.mp4", world.frames_TCHW, 8)
    row: dict[str, Any] = dict.fromkeys(SCHEMAS["clips"].names)
    row |= {"clip_key": f"clip-{index}", "video": (folder / "v.mp4").read_bytes(), "mask": [png_bytes(m) for m in world.mask_THW]}
    row |= {"mask_format": "png", "references": [png_bytes(render_reference(WORLD, world.product, 0))], "prompt": "A cup.", "metadata": "{}"}
    return row | {"width": 64, "height": 64, "fps": 8.0, "num_frames": 5, "product_id": "p", "source": "v.mp4", "line": index + 1} | changes


def test_the_table_shows_provider_agreement_and_risk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVTT_HOME", str(tmp_path))
    store = ArtifactStore.open(str(tmp_path / "store"))
    clips = [clip_row(tmp_path, 0), clip_row(tmp_path, 1, mask=[], mask_format="none")]
    write_shard(tmp_path / "clips.parquet", clips, SCHEMAS["clips"])
    planned = plan_artifact("clips", {"of": "this test"})
    table = attach_json(store, planned, TABLE, [{"clip_key": clip["clip_key"], "height": 64, "shard": 0, "row": i} for i, clip in enumerate(clips)])
    made = store.commit(planned, [store.pool(tmp_path / "clips.parquet", "shard-00000.parquet", rows=2), table], {})
    ref = ArtifactRef(kind="clips", version=made.version, uri=store.store.uri)
    encoder = recipe_by_name("nano").conditions.image_encoder.model_dump()
    found = {"masks.when_missing": "sam2", "masks.sam2": SAM2, "masks.image_encoder": encoder, "masks.compare": "grabcut", "masks.max_area": 1.0}
    recipe = recipe_by_name("nano", found)
    shown: list[str] = []
    monkeypatch.setattr(task, "map_units", lambda store, function, units, **_: [mask_shard(unit) for unit in units])
    monkeypatch.setattr(task, "show_markdown", lambda key, text, description: shown.append(text))

    manifest = task._make(store, masks_artifact(recipe, ref.name), ref, recipe)
    task._show(store, manifest, ref, recipe)

    rows = read_rows(store.local_path(manifest.shards()[0]))
    assert [row["provenance"] for row in rows] == ["manifest", "nano-sam2 (random weights, seed 6) by nano-dinov2"]
    assert [row["compared_with"] for row in rows] == ["grabcut by nano-dinov2"] * 2
    assert rows[0]["agreement"] > 0.3 and rows[1]["match"] is not None and rows[0]["match"] is None
    encoders = manifest.summary["encoders"]
    assert set(encoders) == {"image", "sam2"} and encoders["sam2"]["files"] == {} and list(encoders["image"]["files"]) == ["model.safetensors"]
    assert {k: v for k, v in manifest.summary.items() if k != "encoders"} == {"usable": 2, "refused": 0, "provenance": {
        "manifest": 1, "nano-sam2 (random weights, seed 6) by nano-dinov2": 1,
    }}  # fmt: skip
    risky = sum(bool(row["risks"]) for row in judged(rows, [{"clip_key": row["clip_key"], "height": 64} for row in rows], recipe.masks))
    assert risky and f"2 masks usable, {risky} of them at risk, 0 refused" in shown[0]
    assert all(name in shown[0] for name in ("temporal_iou", "agreement", "random weights, seed 6", "two providers agree by", "above 27.5%"))

    never = recipe_by_name("nano", found | {f"masks.risky_{name}": 1.0 for name in ("area", "jitter")} | {
        "masks.risky_temporal_iou": 0.0, "masks.risky_agreement": 0.0,
    })  # fmt: skip
    assert store.find(masks_artifact(never, ref.name)) == manifest, "nothing is made anew"
    task._show(store, manifest, ref, never)
    assert "2 masks usable, 0 of them at risk, 0 refused" in shown[1] and "two providers agree" not in shown[1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"masks.provider": "sam2"}, "masks.sam2 names no model"),
        ({"masks.sam2": {"architecture": "nano-dinov2", "weights": "seed:0"}}, "no sam2 architecture"),
        ({"masks.image_encoder": SAM2}, "no image architecture"),
    ],
)
def test_models_in_the_wrong_place_are_refused(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe_by_name("nano", overrides)
