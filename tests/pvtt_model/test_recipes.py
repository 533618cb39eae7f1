"""The survey's figures (its sections 10.1 to 10.5) as recipes, and overrides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model.backbones.architectures import ARCHITECTURES
from pvtt_model.overrides import parse_override
from pvtt_model.recipes import RECIPES, recipe_by_name
from pvtt_model.specs import RecipeSpec, StageSpec


def gate(stage: StageSpec) -> set[tuple[str, str, float]]:
    return {(t.metric, t.op, t.value) for t in stage.gate.thresholds}


def test_stage_1_of_the_survey():
    (stage,) = recipe_by_name("wan2.1-vace-1.3b").stages
    assert stage.backbone.architecture == "wan2.1-vace-1.3b"
    assert (stage.lora.rank, stage.lora.alpha) == (64, 64)
    assert (stage.parallel.num_workers, stage.parallel.gpu_memory_gib) == (4, 80.0)
    assert (stage.data.min_pairs, stage.data.max_pairs) == (10_000, 50_000)
    assert gate(stage) == {("clip_i", ">", 0.75)}


def test_stage_2_of_the_survey():
    stage = recipe_by_name("wan2.1-vace-14b").stages[0]
    assert stage.backbone.architecture == "wan2.1-vace-14b"
    assert (stage.lora.rank, stage.lora.alpha, stage.lora.dropout) == (128, 128, 0.05)
    assert (stage.parallel.num_workers, stage.parallel.micro_batch, stage.parallel.grad_accum, stage.parallel.zero_stage) == (8, 1, 4, 3)
    assert (stage.data.min_pairs, stage.data.max_pairs) == (100_000, 300_000)
    assert gate(stage) == {("clip_i", ">", 0.80), ("fvd", "<", 150.0)}


def test_stage_3_of_the_survey():
    base, refine = recipe_by_name("wan2.1-vace-14b").stages
    assert refine.init_from == "previous"
    assert refine.optim.lr < base.optim.lr
    assert (refine.parallel.num_workers, refine.parallel.gpu_memory_gib) == (8, 80.0)
    assert (refine.data.min_pairs, refine.data.max_pairs, refine.data.select) == (50_000, 100_000, "best")
    assert gate(refine) == {("clip_i", ">", 0.85), ("fvd", "<", 100.0), ("bg_psnr_db", ">", 30.0)}


@pytest.mark.parametrize("name", ["wan2.1-vace-1.3b", "wan2.1-vace-14b", "full"])
def test_what_every_stage_of_the_survey_shares(name):
    recipe = recipe_by_name(name)
    video, conditions = recipe.latents.video, recipe.conditions
    assert (video.width, video.height, video.num_frames) == (832, 480, 81)
    assert (conditions.image_encoder.architecture, conditions.image_size) == ("dinov2-vit-l14", 224)  # 16 x 16 patches: 256 x 1024
    for stage in recipe.stages:
        assert (stage.reference.num_tokens, stage.reference.every_nth_layer) == (16, 1)
        assert stage.objective.reference_dropout == 0.2
        assert stage.lora.targets == ("attn1", "attn2") and stage.lora.alpha == stage.lora.rank
        assert (stage.optim.warmup_steps, stage.optim.beta1, stage.optim.beta2) == (1000, 0.9, 0.999)
        assert (stage.optim.weight_decay, stage.optim.grad_clip) == (0.01, 1.0)
        assert (stage.parallel.global_batch, stage.parallel.precision) == (32, "bfloat16")
        assert stage.edit.num_steps == 50
        assert stage.optim.lr == (2e-5 if stage.name == "refine" else 1e-4)


def test_full_is_the_three_stages_in_a_row():
    stages = recipe_by_name("full").stages
    assert [(s.name, s.init_from) for s in stages] == [("verify", "base"), ("base", "previous"), ("refine", "previous")]
    assert [s.backbone.architecture for s in stages] == ["wan2.1-vace-1.3b", "wan2.1-vace-14b", "wan2.1-vace-14b"]


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_survives_json(name):
    recipe = recipe_by_name(name)
    assert recipe == RECIPES[name] and recipe.name == name
    again = RecipeSpec.model_validate_json(recipe.model_dump_json())
    assert again == recipe and again.identity() == recipe.identity()


def test_overrides_by_dotted_path():
    by_star = recipe_by_name("nano", {"stages.*.train.steps": 3})
    assert [s.train.steps for s in by_star.stages] == [3, 3, 3]
    by_name = recipe_by_name("nano", {"stages.base.optim.lr": 0.5, "latents.video.width": 80})
    first, _, last = RECIPES["nano"].stages
    assert [s.optim.lr for s in by_name.stages] == [first.optim.lr, 0.5, last.optim.lr] and by_name.latents.video.width == 80
    assert recipe_by_name("nano", {"stages.1.optim.lr": 0.5}) == recipe_by_name("nano", {"stages.base.optim.lr": 0.5})
    in_order = recipe_by_name("nano", {"stages.*.train.steps": 3, "stages.2.train.steps": 4})
    assert [s.train.steps for s in in_order.stages] == [3, 3, 4]
    assert recipe_by_name("nano", {"stages.0.lora.targets": ["cross_attn"]}).stages[0].lora.targets == ("attn2",)
    assert recipe_by_name("nano") == RECIPES["nano"], "an override does not reach the recipe it started from"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"latents.vidio.width": 64},
            "'latents.vidio.width': no field 'vidio' under 'latents'. Did you mean 'video'?.*Valid: video, vae, mask_policy",
        ),
        ({"latents.video.widht": 64}, "no field 'widht'. Did you mean 'width'?.*Valid: width, height, num_frames, fit"),
        ({"stages.verfy.train.steps": 1}, r"no element 'verfy'. Did you mean 'verify'?.*Valid: verify, base, refine, \*"),
        ({"stages.3.train.steps": 1}, "no element '3'.*Valid: verify, base, refine"),
        ({"name.x": 1}, "Nothing lies below it"),
        ({"name.x.y": 1}, "Nothing lies below it"),
        ({"stages.0.train.steps": 0}, r"stages.0.train.steps: Input should be greater than 0 \(got 0\)"),
        ({"latents.fill": "grey"}, "latents.fill: Input should be 'neutral', 'black', 'original' or 'scaled'"),
        ({"latents.video.num_frames": 10}, "Use 9 or 13"),
        ({"stages.*.name": "same"}, "stages share a name"),
    ],
)
def test_a_wrong_override_names_the_valid_choices(overrides, message):
    with pytest.raises(ValueError, match=message):
        recipe_by_name("nano", overrides)


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(
        ValueError, match="no recipe 'nanno'. Did you mean 'nano'.*Valid: nano, nano-long, nano-wide, wan2.1-vace-1.3b, wan2.1-vace-14b, full"
    ):
        recipe_by_name("nanno")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("stages.0.train.steps=5", ("stages.0.train.steps", 5)),
        ("a=1e-4", ("a", 1e-4)),
        ("a=true", ("a", True)),
        ('a=["x"]', ("a", ["x"])),
        ("a=best", ("a", "best")),
        ("a=k=v", ("a", "k=v")),
        ("a=", ("a", "")),
    ],
)
def test_parse_override(text, parsed):
    assert parse_override(text) == parsed


@pytest.mark.parametrize("text", ["stages.0", "=5", ""])
def test_parse_override_wants_path_and_value(text):
    with pytest.raises(ValueError, match="is not of the form path=value"):
        parse_override(text)


@given(st.text())
def test_any_path_is_applied_or_refused_with_a_message(path):
    with pytest.raises(ValueError, match="override|not valid"):
        recipe_by_name("nano", {path: object()})


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("latents.vae.architecture", "nano-s", "no vae architecture 'nano-s'"),
        ("latents.vae.architecture", "foo", "Valid: wan2.1-vae, wan2.2-vae, nano-vae, nano-vae22"),
        ("latents.vae.weights", "seed:x", "no known form"),
        ("latents.vae.weights", "s3://key:secret@bucket/x", "hold a credential"),  # not-a-secret: to be refused or hidden
        ("stages.*.edit.guidance_text", float("inf"), "finite number"),
        ("stages.*.reference.num_heads", 7, "not a multiple of num_heads 7"),
        ("latents.vae.weights", "nano:vea", "no shipped weights 'nano:vea'. Valid: .*nano:vae"),
        ("latents.vae.weights", "nano:", "no known form"),
        ("stages.*.backbone.weights", "nano:nano-m", "weights 'nano:nano-m' are of architecture 'nano-m', not 'nano-s'"),
        ("conditions.image_encoder.architecture", "nano-judge", "'nano:dinov2' are of architecture 'nano-dinov2', not 'nano-judge'"),
        ("conditions.image_encoder", {"architecture": "nano-judge", "weights": "seed:0"}, "is a ConvNet and has no patch tokens. Use a ViT"),
        ("conditions.image_size", 100, f"patch of {ARCHITECTURES['nano-dinov2'].config['patch']} pixels"),
        ("stages.*.optim.beta1", 1.0, "less than 1"),
        ("stages.*.reference.injection", "ip_adapter", "stage 'verify' has .* which reads .*class tokens: set conditions.class_tokens=true"),
        ("stages.base.reference.injection", "dual_path", "stage 'base' has .* which reads CLIP's tokens: set conditions.clip_encoder"),
        ("stages.*.reference.injection", "reference_net", "the reference_net has no tokens: .* Set space='own'"),
    ],
)
def test_what_could_only_fail_later_is_refused_now(path, value, says):
    with pytest.raises(ValueError, match=says) as caught:
        recipe_by_name("nano", {path: value})
    assert "secret" not in str(caught.value)


def test_an_injection_whose_features_are_stored_is_accepted():
    with pytest.raises(ValueError, match="stage 'verify' .* which reads the pictures' latents: set latents.references='white' or 'own'"):
        recipe_by_name("full", {"stages.*.reference.injection": "reference_net"})
    recipe = recipe_by_name("full", {"stages.*.reference.injection": "reference_net", "latents.references": "own"})
    assert recipe.stages[0].reference.identity()["injection"] == "reference_net"
    assert recipe_by_name("full").stages[0].reference.identity().keys() & {"injection", "semantic_tokens"} == set(), "the default keeps its names"
