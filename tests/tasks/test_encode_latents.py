"""The latents task through a real store, its units run here instead of on Ray: video variants counted, said and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tasks.encode_latents as task
from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import ArtifactRef, Manifest, plan_artifact
from pvtt_model.chain import latents_artifact
from pvtt_model.curation.masks import mask_of
from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.nano.world import render_clip
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import NanoWorldSpec, RecipeSpec
from tasks.shard_work import latent_shard
from tasks.tables import TABLE, attach_json


def rows(folder: Path, recipe: RecipeSpec, index: int, num_frames: int, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    world = render_clip(NanoWorldSpec(num_clips=2, num_frames=num_frames), index)
    write_mp4(folder / "v.mp4", world.frames_TCHW, 8)
    clip: dict[str, Any] = dict.fromkeys(SCHEMAS["clips"].names)
    clip |= {"clip_key": f"clip-{index}", "video": (folder / "v.mp4").read_bytes(), "mask": [png_bytes(m) for m in world.mask_THW]}
    clip |= {"mask_format": "png", "references": [], "prompt": "A cup.", "metadata": "{}", "width": 64, "height": 64, "fps": 8.0}
    clip |= {"num_frames": num_frames, "product_id": "p", "source": "v.mp4", "line": index + 1, "split": split}
    return clip, mask_of(clip, recipe.latents.video, recipe.masks)


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """encoded(recipe) -> (store, manifest, what was shown) of three clips: long, exactly as long as needed, held out."""
    monkeypatch.setenv("PVTT_HOME", str(tmp_path))
    shown: list[str] = []
    monkeypatch.setattr(task, "map_units", lambda store, function, units, **_: [latent_shard(unit) for unit in units])
    monkeypatch.setattr(task, "show_markdown", lambda key, text, description: shown.append(text))

    def run(recipe: RecipeSpec) -> tuple[ArtifactStore, Manifest, str]:
        store = ArtifactStore.open(str(tmp_path / "store"))
        kinds = list(zip(*(rows(tmp_path, recipe, i, n, s) for i, n, s in ((0, 15, "train"), (1, 5, "train"), (2, 15, "eval"))), strict=True))
        refs = []
        for kind, of_kind in zip(("clips", "masks"), kinds, strict=True):
            write_shard(tmp_path / kind, of_kind, SCHEMAS[kind])
            planned = plan_artifact(kind, {"of": "this test"})
            made = store.find(planned)
            if made is None:
                table = attach_json(
                    store,
                    planned,
                    TABLE,
                    [{"clip_key": row["clip_key"], "split": row.get("split"), "shard": 0, "row": i} for i, row in enumerate(of_kind)],
                )
                made = store.commit(planned, [store.pool(tmp_path / kind, "shard-00000.parquet", rows=3), table], {})
            refs.append(ArtifactRef(kind=kind, version=made.version, uri=store.store.uri))
        manifest = task._make(store, latents_artifact(recipe, refs[0].name, refs[1].name), *refs, recipe)
        task._show(store, manifest)
        return store, manifest, shown[-1]

    return run


def test_variants_are_counted_said_and_shown(encoded: Any) -> None:
    store, manifest, shown = encoded(recipe_by_name("nano", {"latents.video_variants": 2}))
    (fewer,) = task.reasons(store, manifest)
    assert (fewer["clip_key"], fewer["videos"], fewer["usable"]) == ("clip-1", 1, True) and "the shot has 5 frames" in fewer["reason"]
    assert (manifest.summary["videos"], manifest.summary["fewer_videos"], manifest.summary["usable"]) == (4, 1, 3)
    assert "4 video variants; fewer than asked for of 1 clips" in shown and "| clip-1 | 1 |" in shown and "![variants](data:image" in shown
    with Image.open(store.local_path(manifest.file(task.VARIANTS))) as sheet:
        assert sheet.width > 2 * 3 * 120 and sheet.height > 4 * 120, "two clips of two mask variants; the held-out one is not shown"


def test_without_video_variants_nothing_is_new_but_the_picture(encoded: Any) -> None:
    store, manifest, shown = encoded(recipe_by_name("nano"))
    assert set(manifest.summary) == {"usable", "clips", "bytes", "encoders"} and "video variants" not in shown and "![variants]" in shown
    assert task.reasons(store, manifest) == []
    _, manifest, shown = encoded(recipe_by_name("nano", {"latents.variants": 1}))
    assert task.VARIANTS not in {file.name for file in manifest.files} and "![variants]" not in shown
