"""What a spec accepts and refuses, with the cure in the message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pvtt_model.chain import checkpoint_artifact
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import ClipSpec, LoraSpec, MaskSpec, ModelSpec, ParallelSpec, RecipeSpec, TrainSpec, VideoSpec


@given(st.integers(min_value=1, max_value=400))
def test_frames_are_four_k_plus_one(n):
    if n % 4 == 1:
        assert VideoSpec(num_frames=n).num_frames == n
    else:
        below, above = n // 4 * 4 + 1, n // 4 * 4 + 5
        with pytest.raises(ValidationError, match=f"num_frames is {n}.*Use {below} or {above}"):
            VideoSpec(num_frames=n)


@pytest.mark.parametrize("change", [{"width": 100}, {"height": 8}, {"width": 0}, {"num_frames": 0}, {"fit": "pad"}])
def test_impossible_frames_are_refused(change):
    with pytest.raises(ValidationError):
        VideoSpec(**change)


def test_a_hub_model_is_pinned():
    with pytest.raises(ValidationError, match="hf://owner/name.*Set `revision`"):
        ModelSpec(architecture="wan2.1-vae", weights="hf://owner/name")
    assert ModelSpec(architecture="wan2.1-vae", weights="hf://owner/name", revision="abc").revision == "abc"


@pytest.mark.parametrize(
    ("given_names", "known"),
    [
        (tuple(f"{a}.{p}" for a in ("temporal_self_attn", "cross_attn") for p in ("to_q", "to_k", "to_v", "to_out")), ("attn1", "attn2")),
        (("cross_attn.to_v", "cross_attn.k"), ("attn2.to_k", "attn2.to_v")),
        (("self_attn.o", "self_attn.q", "ffn.fc2"), ("attn1.to_q", "attn1.to_out.0", "ffn.net.2")),
        (("spatial_self_attn",), ("attn1",)),
        (("self_attn", "attn1"), ("attn1",)),
        (("attn2", "ffn.net.0", "ffn.0"), ("attn2", "ffn.net.0.proj")),
    ],
)
def test_lora_targets_by_the_surveys_names(given_names, known):
    assert LoraSpec(targets=given_names).targets == known


def test_an_unknown_lora_target_lists_the_valid_ones():
    with pytest.raises(ValidationError, match="'qkv' is not in Wan's blocks.*attn1.*attn2.*ffn.*temporal_self_attn.*cross_attn"):
        LoraSpec(targets=("qkv",))
    with pytest.raises(ValidationError, match=r"'cross_attn.qkv': 'attn2' has no layer 'qkv'. It has .*'attn2.to_out.0'"):
        LoraSpec(targets=("cross_attn.qkv",))
    with pytest.raises(ValidationError, match="targets are empty"):
        LoraSpec(targets=())


def test_ranks_by_module():
    spec = LoraSpec(rank=128, alpha=128, rank_pattern={"spatial_self_attn": 64}, alpha_pattern={"attn1": 64, "cross_attn.v": 256})
    assert (spec.rank_of("attn1.to_q"), spec.rank_of("attn2.to_q")) == (64, 128)
    assert (spec.alpha_of("attn1.to_q"), spec.alpha_of("attn2.to_v"), spec.alpha_of("attn2.to_k")) == (64, 256, 128)
    assert LoraSpec.model_validate_json(spec.model_dump_json()) == spec and hash(spec)
    assert (spec.label(), LoraSpec(rank=8, kind="dora", quantize="nf4").label()) == ("LoRA r64/128", "DoRA r8 on a base in NF4")
    with pytest.raises(ValidationError, match=r"rank_pattern names \['ffn'\], which the targets \['attn1', 'attn2'\] do not hold"):
        LoraSpec(rank_pattern={"ffn": 8})
    with pytest.raises(ValidationError, match=r"names \['attn1'\] twice"):
        LoraSpec(rank_pattern={"self_attn": 8, "attn1": 4})
    with pytest.raises(ValidationError, match="blocks are"):
        LoraSpec(blocks=(-1,))


def test_what_came_later_leaves_the_names_of_before():
    assert LoraSpec().identity() == {"rank": 128, "alpha": 128, "dropout": 0.05, "targets": ["attn1", "attn2"]}
    assert LoraSpec(blocks=(3, 1, 3)).identity()["blocks"] == [1, 3]


def test_what_reads_whole_weights_is_refused_where_they_are_cut_apart():
    from pvtt_model.recipes import recipe_by_name

    for change in ({"kind": "dora"}, {"quantize": "nf4"}):
        override = {"stages.*.parallel.zero_stage": 3, **{f"stages.*.lora.{k}": v for k, v in change.items()}}
        with pytest.raises(ValueError, match="reads whole base weights.*zero_stage=2"):
            recipe_by_name("nano", override)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_global_batch(micro, workers, accum):
    assert ParallelSpec(micro_batch=micro, num_workers=workers, grad_accum=accum).global_batch == micro * workers * accum


def test_specs_are_frozen_and_closed():
    with pytest.raises(ValidationError, match="frozen"):
        TrainSpec(steps=1).steps = 2
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TrainSpec(steps=1, step=2)
    with pytest.raises(ValidationError):
        TrainSpec(steps=0)
    with pytest.raises(ValidationError):
        ClipSpec(eval_share=1.5)
    with pytest.raises(ValidationError):
        MaskSpec(threshold=255)


def test_stages_are_told_apart_and_the_first_starts_from_the_base():
    nano = recipe_by_name("nano")
    values = nano.model_dump()
    with pytest.raises(ValidationError, match="stages share a name.*'verify', 'verify'"):
        RecipeSpec.model_validate(values | {"stages": [values["stages"][0]] * 2})
    with pytest.raises(ValidationError, match="stage 'base' is the first.*Set init_from='base'"):
        RecipeSpec.model_validate(values | {"stages": values["stages"][1:]})


def test_identity_is_plain_json_without_execution_fields():
    recipe = recipe_by_name("nano")
    identity = recipe.identity()
    assert isinstance(identity["stages"], list)
    train = identity["stages"][0]["train"]
    assert train == {"steps": recipe.stages[0].train.steps, "seed": 42}
    assert "description" not in identity and "on_failure" not in identity["stages"][0]["gate"]


KEPT = {"stages.base.train.keep_optimizer": True, "stages.refine.init_optimizer": "kept"}


def test_a_kept_optimizer_needs_one_that_fits():
    assert recipe_by_name("nano", KEPT).stages[2].init_optimizer == "kept"
    with pytest.raises(ValueError, match="goes on with the optimizer of 'base', which keeps none. Set stages.base.train.keep_optimizer=true"):
        recipe_by_name("nano", {"stages.refine.init_optimizer": "kept"})
    with pytest.raises(ValueError, match="has another parallel.num_workers: its moments are of other tensors"):
        recipe_by_name("nano", KEPT | {"stages.refine.parallel.num_workers": 1})
    with pytest.raises(ValueError, match="'base' goes on with the optimizer of 'verify', and has another backbone"):
        recipe_by_name("nano", {"stages.verify.train.keep_optimizer": True, "stages.base.init_optimizer": "kept"})
    with pytest.raises(ValueError, match="keeps an optimizer and starts from the base"):
        recipe_by_name("nano", KEPT | {"stages.refine.init_from": "base"})


def test_what_is_shown_is_no_part_of_a_version_and_a_kept_optimizer_is():
    plain = recipe_by_name("nano")
    seen = {"stages.*.train.validate_every_steps": 3, "stages.*.train.sample_every_steps": 0, "stages.*.parallel.peak_tflops": 2.0}
    assert [s.identity() for s in recipe_by_name("nano", seen).stages] == [s.identity() for s in plain.stages]
    kept = recipe_by_name("nano", KEPT)
    assert kept.stages[1].train.identity() != plain.stages[1].train.identity()

    def named(recipe: RecipeSpec) -> str:
        return checkpoint_artifact(recipe, recipe.stages[2], "latents/a", "conditions/a", "masks/a", "clips/a", "checkpoints/a").name

    assert named(kept) != named(plain)
