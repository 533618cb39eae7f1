from __future__ import annotations

import json

import pytest
import torch
from diffusers import WanVACETransformer3DModel
from diffusers.loaders import WanLoraLoaderMixin
from safetensors.torch import save_file

from pvtt_model.backbones.architectures import ARCHITECTURES
from pvtt_model.evaluation.gate import judge
from pvtt_model.evaluation.edit_scores import EditScores, Score
from pvtt_model.evaluation.report import aggregate
from pvtt_model.export.lora_file import read_lora
from pvtt_model.export.release import load_adapter, load_lora, write_release
from pvtt_model.plan_parameters import dit_width
from pvtt_model.recipes import NANO, recipe_by_name

WIDTH = dit_width(ARCHITECTURES["nano-s"].config)
RANK = NANO.stages[-1].lora.rank
SEEDS = {"latents.vae.weights": "seed:0", "stages.*.backbone.weights": "seed:0", "stages.*.evaluate.judge.weights": "seed:0"}


def lora_tensors(rank: int = RANK) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in range(2):
        for module in ("attn1.to_q", "attn2.to_out.0"):
            tensors[f"transformer.blocks.{block}.{module}.lora_A.weight"] = torch.randn(rank, WIDTH, generator=generator)
            tensors[f"transformer.blocks.{block}.{module}.lora_B.weight"] = torch.randn(WIDTH, rank, generator=generator)
    return tensors


@pytest.fixture
def inputs(tmp_path):
    torch.set_num_threads(1)
    save_file({"resampler.latents": torch.ones(4, 8)}, tmp_path / "adapter.safetensors")
    save_file(lora_tensors(), tmp_path / "lora.safetensors")
    score = Score(name="bg_psnr_db", value=21.0, direction="higher")
    stand_in = Score(name="clip_i[nano-openclip]", value=0.5, direction="higher", extractor="nano-openclip (random weights, seed 3)")
    edits = [EditScores(clip_key="c0", status="done", scores={s.name: s for s in (score, stand_in)})]
    report = aggregate("refine", edits, NANO.stages[-1].evaluate)
    return {
        "adapter": tmp_path / "adapter.safetensors",
        "lora": tmp_path / "lora.safetensors",
        "recipe": NANO.model_dump(mode="json"),
        "stages": [{"name": s.name, "steps": 16, "final_loss": 0.5, "checkpoint": f"checkpoints/{s.name}"} for s in NANO.stages],
        "reports": [report],
        "verdicts": [judge(report, NANO.stages[-1].gate)],
        "lineage": {"data": {"clips": 24, "products": 6}, "artifacts": {"clips/abc": []}},
        "contact_sheet": None,
        "created": "2026-01-01T00:00:00Z",
    }


def test_a_release_reads_back_and_repeats(inputs, tmp_path) -> None:
    sheet = tmp_path / "s.png"
    sheet.write_bytes(b"\x89PNG\r\n\x1a\nnot looked at")
    inputs["contact_sheet"] = sheet
    files = write_release(tmp_path / "one", **inputs)
    assert {f.name for f in files} == {
        "reference_adapter.safetensors",
        "pytorch_lora_weights.safetensors",
        "model_index.json",
        "lineage.json",
        "README.md",
        "contact_sheet.png",
    }
    again = write_release(tmp_path / "two", **inputs)
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
    assert torch.equal(load_adapter(tmp_path / "one")["resampler.latents"], torch.ones(4, 8))
    assert load_lora(tmp_path / "one").keys() == lora_tensors().keys()
    index = json.loads((tmp_path / "one" / "model_index.json").read_text())
    assert index["lora"]["rank"] == RANK and index["base_model"]["architecture"] == "nano-m" and index["lora"]["modules"] == 4
    assert "model_index.json" not in index["files"] and len(index["files"]["README.md"]["sha256"]) == 64


def test_the_other_expert_stands_beside_with_its_own_ranks(inputs, tmp_path) -> None:
    stage = inputs["recipe"]["stages"][-1]
    other = stage | {"lora": stage["lora"] | {"rank": 2, "alpha": 6}, "backbone": stage["backbone"] | {"expert": "high"}}
    save_file(lora_tensors(2), tmp_path / "other.safetensors")
    files = {"pytorch_lora_weights.safetensors": tmp_path / "other.safetensors", "reference_adapter.safetensors": inputs["adapter"]}
    write_release(tmp_path / "r", **inputs, other_expert=files, other_stage=other)
    _, layers = read_lora(tmp_path / "r" / "high_noise.pytorch_lora_weights.safetensors")
    assert {(layer.rank, layer.alpha) for layer in layers.values()} == {(2, 6)}
    assert (tmp_path / "r" / "high_noise.reference_adapter.safetensors").read_bytes() == inputs["adapter"].read_bytes()
    with pytest.raises(ValueError, match="differ from the recipe's"):
        write_release(tmp_path / "r2", **inputs, other_expert=files, other_stage=stage)


def test_the_card_says_what_is_known(inputs, tmp_path) -> None:
    inputs["recipe"] = recipe_by_name("nano", SEEDS).model_dump(mode="json")
    write_release(tmp_path / "r", **inputs)
    card = (tmp_path / "r" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and "base_model" not in card.split("---")[1]
    for words in (
        "Random weights, not a usable model: video model: nano-m (seed:0); VAE: nano-vae (seed:0); judge: nano-judge (seed:0). This",
        "Gates missed: refine",
        "clips: 24",
        "products: 6",
        "`clip_i[nano-openclip]`",
        "nano-openclip (random",
        "FVD not measured",
        "not measured: the report holds",
        "checkpoints/refine",
    ):
        assert words in card, words
    inputs["lineage"] = {}
    write_release(tmp_path / "r", **inputs)
    assert "not recorded" in (tmp_path / "r" / "README.md").read_text()


def test_the_card_of_shipped_weights_says_what_they_are_good_for(inputs, tmp_path) -> None:
    write_release(tmp_path / "r", **inputs)
    card = (tmp_path / "r" / "README.md").read_text()
    assert "Random weights" not in card and "random-weights" not in card
    assert "Small weights trained on PVTT's procedural clips" in card and "video model: nano-m (nano:nano-m)" in card


def test_the_card_of_a_published_base(inputs, tmp_path) -> None:
    recipe = recipe_by_name("wan2.1-vace-1.3b", {"stages.0.lora.rank": RANK, "stages.0.lora.alpha": RANK}).model_dump(mode="json")
    write_release(tmp_path / "r", **{**inputs, "recipe": recipe, "verdicts": [], "stages": []})
    card = (tmp_path / "r" / "README.md").read_text()
    assert 'base_model: "Wan-AI/Wan2.1-VACE-1.3B-diffusers"' in card and "load_lora_weights" in card
    assert "Random weights, not" not in card and "Small weights" not in card and "not trained in this run" in card and "Stages without a gate" in card


def test_diffusers_loads_the_lora_with_its_alpha(inputs, tmp_path) -> None:
    inputs["recipe"]["stages"][-1]["lora"]["alpha"] = RANK // 2
    write_release(tmp_path / "r", **inputs)
    state, metadata = WanLoraLoaderMixin.lora_state_dict(str(tmp_path / "r"), local_files_only=True, return_lora_metadata=True)
    model = WanVACETransformer3DModel(**ARCHITECTURES["nano-s"].config)
    model.load_lora_adapter(state, metadata=metadata, prefix="transformer")
    layer = model.blocks[0].attn1.to_q
    assert layer.scaling["default_0" if "default_0" in layer.scaling else "default"] == 0.5
    loaded = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert sorted(loaded) == sorted(f"blocks.{b}.{m}" for b in range(2) for m in ("attn1.to_q", "attn2.to_out.0"))
    weight = next(iter(layer.lora_A.values())).weight
    assert torch.equal(weight, lora_tensors()["transformer.blocks.0.attn1.to_q.lora_A.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.0.attn1.to_q.lora_A.weight": torch.ones(RANK, 4)}, "not of one known format.*blocks.0.attn1.to_q"),
        ({"transformer.blocks.0.attn3.to_q.lora_A.weight": torch.ones(RANK, 4)}, "not of one known format.*attn3"),
        ({f"transformer.blocks.0.ffn.net.2.lora_{h}.weight": torch.ones(RANK, RANK) for h in "AB"}, "none of the recipe's targets"),
        ({"transformer.blocks.0.attn1.to_q.lora_magnitude_vector": torch.ones(WIDTH)}, "of kind 'lora', the file's is not"),
        ({"transformer.blocks.0.attn1.to_q.lora_A.default.weight": torch.ones(RANK, 4)}, "default"),
        ({"transformer.blocks.0.self_attn.q.lora_A.weight": torch.ones(RANK, 4)}, "self_attn"),
        ({"transformer.blocks.1.attn1.to_k.lora_A.weight": torch.ones(RANK, 4)}, "no partner"),
        ({"transformer.blocks.0.attn1.to_q.lora_B.weight": torch.ones(WIDTH, RANK - 1)}, "ranks"),
        ({"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.full((RANK, WIDTH), float("nan"))}, "not finite"),
    ],
)
def test_wrong_lora_is_refused_before_anything_is_written(inputs, tmp_path, change, words) -> None:
    save_file({**lora_tensors(), **change}, inputs["lora"])
    with pytest.raises(ValueError, match=words):
        write_release(tmp_path / "r", **inputs)
    assert not (tmp_path / "r").exists()


def test_wrong_rank_pickles_and_empty_files_are_refused(inputs, tmp_path) -> None:
    save_file(lora_tensors(rank=RANK // 2), inputs["lora"])
    with pytest.raises(ValueError, match=f"differ from the recipe's {RANK}"):
        write_release(tmp_path / "r", **inputs)
    torch.save(lora_tensors(), inputs["lora"])
    with pytest.raises(ValueError, match="not a safetensors file"):
        write_release(tmp_path / "r", **inputs)
    save_file(lora_tensors(), inputs["lora"])
    save_file({}, inputs["adapter"])
    with pytest.raises(ValueError, match="holds no tensor"):
        write_release(tmp_path / "r", **inputs)


def test_a_changed_file_is_noticed(inputs, tmp_path) -> None:
    write_release(tmp_path / "r", **inputs)
    save_file({"resampler.latents": torch.zeros(4, 8)}, tmp_path / "r" / "reference_adapter.safetensors")
    with pytest.raises(ValueError, match="SHA-256"):
        load_adapter(tmp_path / "r")
