"""A worker's edit and its score through a real store; the models are nano ones or colours. And the gallery that the scores share."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save, save_file

import tasks.edit_work as work
import tasks.score_work as scoring
from infra.artifact_store import ArtifactStore, Derived
from infra.store import ObjectMissing
from pvtt_model.artifacts import plan_artifact
from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.source import frozen, seeded
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation.latents import encode_latents
from pvtt_model.data.shards import SCHEMAS, read_row, read_rows, write_shard
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.recipes import NANO
from pvtt_model.specs import BackboneSpec, EvalSpec, ModelSpec, VideoSpec
from tasks.score_edits import _gallery, _refuse_lost

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220), "green": (20, 220, 20)}


class MeanColour:
    name, side = "nano-colour", 16

    def embed(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return images_BCHW.mean(dim=(2, 3)) - 0.5

    embed_images = embed

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.ones(len(texts), 3)


def recipe():
    stage = NANO.stages[0]
    edit = stage.edit.model_copy(update={"num_steps": 2, "baselines": ("base", "no_reference", "wrong_reference"), "reference": "swap"})
    evaluate = EvalSpec(
        clip=stage.evaluate.clip, dino=stage.evaluate.dino, judge=ModelSpec(architecture="nano-judge", weights="seed:1"), candidates=20
    )
    latents = NANO.latents.model_copy(update={"video": VideoSpec(width=32, height=32, num_frames=5), "dtype": "float32"})
    conditions = NANO.conditions.model_copy(update={"product_words": "hide"})
    stages = (stage.model_copy(update={"edit": edit, "evaluate": evaluate}),)
    return NANO.model_copy(update={"latents": latents, "conditions": conditions, "stages": stages})


def clip_row(tmp_path, colour: str, **changes: Any) -> dict[str, Any]:
    frames = torch.full((5, 3, 32, 32), 128, dtype=torch.uint8)
    mask = torch.zeros(5, 32, 32, dtype=torch.bool)
    mask[:, 8:24, 8:24] = True
    frames = torch.where(mask[:, None], torch.tensor(COLOURS[colour], dtype=torch.uint8)[:, None, None], frames)
    write_mp4(tmp_path / "v.mp4", frames, 8)
    pngs = [png_bytes(m) for m in mask]
    row: dict[str, Any] = dict.fromkeys(SCHEMAS["clips"].names)
    row |= {"clip_key": f"clip-{colour}", "video": (tmp_path / "v.mp4").read_bytes(), "mask": pngs, "mask_format": "png", "fps": 8.0}
    row |= {"width": 32, "height": 32, "num_frames": 5, "metadata": "{}", "source": "v.mp4", "line": 1, "split": "eval", "look_alikes": "all"}
    row |= {"references": [png_bytes(frames[0, :, 8:24, 8:24])], "prompt": f"A {colour} cup.", "product_words": f"{colour} cup"}
    return row | {"product_id": colour} | changes


@pytest.fixture
def placed(tmp_path, make_world):
    """(store, place by colour, vae, teacher): three clips in shards of a store."""
    store = ArtifactStore.open(str(tmp_path / "store"))
    return store, *make_world(store)


@pytest.fixture
def make_world(tmp_path):
    from pvtt_model.specs import BackboneSpec, LoraSpec, ReferenceSpec
    from pvtt_model.training.teacher import build_teacher

    config = architecture("nano-vae").config
    plain = {"latents_mean": [0.0] * config["z_dim"], "latents_std": [1.0] * config["z_dim"]}
    with seeded(0):
        vae = VideoAutoencoder(frozen(AutoencoderKLWan(**{**plain, **config})), "random")
    reference, lora = ReferenceSpec(num_tokens=3, depth=1, width=32, num_heads=4), LoraSpec(rank=4, alpha=4, dropout=0.0)
    teacher = build_teacher(BackboneSpec(architecture="nano-s", weights="seed:7"), reference, lora, "nano-dinov2", None, torch.float32, 0)
    text, image = teacher.transformer.config.text_dim, teacher.resampler.proj_in.in_features

    def make(store: ArtifactStore):
        truth = clip_row(tmp_path, "blue")
        clips = [clip_row(tmp_path, "red", truth_product_id="blue", truth_video=truth["video"], truth_mask=truth["mask"])]
        clips += [truth, clip_row(tmp_path, "green")]
        quality = {"provenance": "manifest", "area": 0.2, "area_max": 0.2, "jitter_px": 0.0, "gaps": 0, "temporal_iou": 1.0, "quality": 1.0}
        quality |= dict.fromkeys(("match", "compared_with", "agreement"))
        masks = [{"clip_key": c["clip_key"], "usable": True, "reason": None, "mask": c["mask"], **quality} for c in clips]
        latents = [encode_latents(c, m, recipe().latents, vae) for c, m in zip(clips, masks, strict=True)]
        g = torch.Generator().manual_seed(0)
        conditions = [
            {"clip_key": c["clip_key"], "usable": True, "reason": None}
            | {"tensors": save({"text_LD": torch.randn(4, text, generator=g), "reference_NPC": torch.randn(1, 4, image, generator=g)})}
            for c in clips
        ]
        files = {}
        for kind, rows in {"clips": clips, "masks": masks, "latents": latents, "conditions": conditions}.items():
            write_shard(tmp_path / f"{kind}.parquet", rows, SCHEMAS[kind])
            files[kind] = store.pool(tmp_path / f"{kind}.parquet", "shard-00000.parquet", rows=3)
        save_file({"text_LD": torch.zeros(1, text)}, tmp_path / "empty.safetensors")
        empty = store.pool(tmp_path / "empty.safetensors", "empty.safetensors")
        places = {c["product_id"]: work.ClipPlace(c["clip_key"], i, **files) for i, c in enumerate(clips)}
        return places, vae, teacher.eval(), empty

    return make


def test_an_edit_is_made_scored_and_found_again(placed, monkeypatch, tmp_path):
    store, places, vae, teacher, empty = placed
    judge = MeanColour()
    monkeypatch.setattr(work, "model_of", lambda family, spec: vae)
    monkeypatch.setattr(work, "_teacher", lambda *args: teacher)
    monkeypatch.setattr(scoring, "model_of", lambda family, spec: judge)
    unit = work.EditUnit(store.store.uri, "k1", recipe(), 0, places["red"], places["blue"], places["green"], (empty, empty), empty)
    made = work.make_edit(unit)
    assert made.summary["usable"] and [f.name for f in made.files] == [
        "clip-red.parquet", "clip-red-composited.mp4", "clip-red-raw.mp4", "clip-red-side-by-side.mp4",
    ]  # fmt: skip
    row = read_row(store.local_path(made.files[0]), 0)
    assert row["prompt"] == "A blue cup." and row["wrong_product_id"] == "green" and len(row["truth_round_trip"]) == len(row["base"]) == 5
    assert work.make_edit(unit) == made

    clips = plan_artifact("clips", {"n": 1})
    facts = [
        {"clip_key": f"clip-{c}", "product_id": c, "split": "eval", "held_out": True, "shard": 0, "row": i, "look_alikes": "all"}
        for i, c in enumerate(COLOURS)
    ]
    facts.append({"clip_key": "clip-val", "product_id": "unused", "split": "validation", "held_out": True, "shard": 0, "row": 0})
    curated = store.commit(clips, [places["red"].clips, _attached(store, clips, tmp_path, facts)], {})
    edits = plan_artifact("edits", {"n": 1}, [clips.name])
    table = [{"clip_key": "clip-red", "reference_key": "clip-blue", "wrong_key": "clip-green"}]
    manifest = store.commit(edits, [made.files[0], _attached(store, edits, tmp_path, table)], {})
    spec = recipe().stages[0].evaluate
    gallery, said = _gallery(store, manifest, curated, spec)
    assert [r["product_id"] for r in read_rows(store.local_path(gallery))] == ["blue", "green", "red"]
    assert len(said) == 1 and "3 products, 20 were asked for" in said[0]

    scoring._gallery.cache_clear()
    scoring._remembering.cache_clear()
    said_of = table[0]
    scored = scoring.score_one(scoring.ScoreUnit(store.store.uri, "s1", recipe(), 0, made.files[0], said_of, gallery))
    scores = scored.summary["scores"]
    value = {name: score["value"] for name, score in scores.items()}
    assert value["identity_top1_truth[nano-colour]"] == 1 and value["identity_top1_source[nano-colour]"] == 0
    assert "3 products (20 asked for), 2 of them look-alikes" in scores["identity_top1[nano-colour]"]["note"]
    assert value["in_product_psnr_db_ceiling"] is not None and value["in_product_psnr_db_base"] is not None
    alone = scoring.score_one(scoring.ScoreUnit(store.store.uri, "s2", recipe(), 0, made.files[0], said_of, None)).summary["scores"]
    assert alone["identity_top1[nano-colour]"]["value"] is None

    lost = made.files[0].model_copy(update={"sha256": "0" * 64, "key": "pool/00/" + "0" * 64 + ".parquet"})
    gone = scoring.score_one(scoring.ScoreUnit(store.store.uri, "s3", recipe(), 0, lost, said_of, None))
    assert gone.summary["status"] == "missing" and gone.summary["clip_key"] == "clip-red" and "pool/00/" in gone.summary["reason"]
    assert store.find_derived("reports", "s3") is None, "it is scored once the store has it again"


def test_lost_edits_are_counted_only_where_they_are_lost(placed, tmp_path):
    """Where this machine sees what a worker did not, it is the node's fault; and of nothing but lost edits there is no report."""
    store, _, _, _, empty = placed
    gone = empty.model_copy(update={"sha256": "0" * 64, "key": "pool/00/" + "0" * 64 + ".parquet"})

    def scored(status: str) -> Any:
        return Derived(kind="reports", key="k", files=(), summary={"status": status}, created="", commit_id="")

    def unit(file: Any) -> Any:
        return scoring.ScoreUnit(store.store.uri, "k", recipe(), 0, file, {}, None)

    _refuse_lost(store, [unit(gone), unit(empty)], [scored("missing"), scored("done")])
    with pytest.raises(ObjectMissing, match="Do all nodes reach the store"):
        _refuse_lost(store, [unit(empty), unit(gone)], [scored("missing"), scored("missing")])
    with pytest.raises(ObjectMissing, match="all 1 edits are gone"):
        _refuse_lost(store, [unit(gone)], [scored("missing")])


def test_two_experts_are_put_in_their_places(placed, monkeypatch, tmp_path):
    """By the stages that trained them; the one that no stage trained yet is the published one."""
    store, places, _, _, empty = placed
    base = recipe().stages[0]

    def stage(name: str, expert: str) -> Any:
        backbone = BackboneSpec(architecture="nano-t2v-a14b", weights="seed:0", expert=expert)
        return base.model_copy(update={"name": name, "backbone": backbone})

    two = recipe().model_copy(update={"stages": (stage("first", "high"), stage("second", "low"))})
    assert two.partner_of(two.stages[0]) is None and two.partner_of(two.stages[1]) is two.stages[0]
    monkeypatch.setattr(work, "_teacher", lambda backbone, *rest: (backbone.expert, [name for name, _ in rest[-1]]))
    alone = work.EditUnit(store.store.uri, "k", two, 0, places["red"], places["blue"], None, (empty,), empty)
    assert work._teachers(alone, store) == (("high", [empty.name]), ("low", []), 0.875)
    both = alone._replace(stage_index=1, trained=(empty, empty), partner=(empty,))
    assert work._teachers(both, store) == (("high", [empty.name]), ("low", [empty.name] * 2), 0.875)


def _attached(store: ArtifactStore, planned, tmp_path, value):
    (tmp_path / "table.json").write_text(json.dumps(value))
    return store.attach(planned, "table.json", tmp_path / "table.json")
