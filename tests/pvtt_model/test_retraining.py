"""When a re-training is due, and what its recipe is."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pvtt_model.chain import checkpoint_artifact
from pvtt_model.recipes import NANO, RECIPES, recipe_by_name
from pvtt_model.specs import DataSpec, RecipeSpec, RetrainSpec
from pvtt_model.training.schedule import weighted

CASES = [
    (RetrainSpec(), (0, 0, 900.0), False, "no clip is new"),
    (RetrainSpec(), (1, 0, 0.0), True, "1 new clips, 1 are enough (retrain.min_new_clips)"),
    (RetrainSpec(min_new_clips=10), (9, 9, 99.0), False, "9 new clips, 10 are enough (retrain.min_new_clips)"),
    (RetrainSpec(min_new_clips=10), (10, 0, 0.0), True, "10 new clips"),
    (RetrainSpec(min_new_clips=10, min_new_product_share=0.5), (4, 2, 0.0), True, "50% of them show new products"),
    (RetrainSpec(min_new_clips=10, min_new_product_share=0.5), (5, 2, 0.0), False, "40% of them show new products, 50% is enough"),
    (RetrainSpec(min_new_clips=10, max_age_days=30), (1, 0, 30.0), True, "the release is 30.0 days old"),
    (RetrainSpec(min_new_clips=10, max_age_days=30), (1, 0, 29.9), False, "29.9 days old, 30 is enough"),
    (RetrainSpec(min_new_clips=10, max_age_days=30), (0, 0, 300.0), False, "no clip is new"),
]


@pytest.mark.parametrize("policy, facts, train, why", CASES)
def test_the_policy(policy: RetrainSpec, facts: tuple[int, int, float], train: bool, why: str) -> None:
    decision = policy.decide(*facts)
    assert decision.train is train and why in decision.why
    if not train and facts[0]:
        assert str(policy.min_new_clips) in decision.why, "what is lacking is said"


def test_it_goes_on_with_what_is_released() -> None:
    asked = {"retrain.steps": 30, "retrain.lr": 2e-4, "retrain.replay_share": 0.75, "stages.refine.data.selected_pairs": 9}
    recipe = recipe_by_name("nano", asked | {"stages.refine.data.selected_share": 0.5})
    again = recipe.retraining()
    (stage,) = again.stages
    was = recipe.stages[-1]
    assert (stage.name, stage.init_from, stage.train.steps, stage.optim.lr) == ("refine", "release", 30, 2e-4)
    assert stage.data == was.data.model_copy(update={"replay_share": 0.75, "selected_pairs": None, "selected_share": None})
    assert (stage.backbone, stage.reference, stage.lora, stage.edit, stage.gate) == (was.backbone, was.reference, was.lora, was.edit, was.gate)
    plain = NANO.retraining().stages[0]
    assert plain.train.steps == NANO.stages[-1].train.steps and plain.data.replay_share == 0.8
    assert recipe_by_name("nano", {"retrain.start_from": "base"}).retraining().stages == NANO.stages
    assert all(recipe.retraining().stages[-1].name == recipe.stages[-1].name for recipe in RECIPES.values())


def test_both_experts_go_on() -> None:
    values = NANO.model_dump(mode="json")
    stages = []
    for name, expert in (("low", "low"), ("high", "high"), ("low-again", "low")):
        stage = NANO.stages[0].model_dump(mode="json") | {"name": name, "init_from": "base"}
        stage["backbone"] |= {"architecture": "nano-t2v-a14b", "weights": "seed:0", "sha256": None, "expert": expert}
        stage["edit"]["background"], stage["reference"]["vace_blocks"] = "generated", False
        stages.append(stage)
    again = RecipeSpec.model_validate(values | {"stages": stages}).retraining()
    assert [(s.name, s.init_from) for s in again.stages] == [("high", "release"), ("low-again", "release")]
    assert again.partner_of(again.stages[1]) == again.stages[0]


def test_names_hang_on_it_where_they_should() -> None:
    """A policy changes no name; a re-training's checkpoint has another name than the stage's own, and hangs on what it starts from."""
    names = ("latents/a", "conditions/b", "masks/c", "clips/d")
    stage, again = NANO.stages[-1], NANO.retraining().stages[-1]
    other = recipe_by_name("nano", {"retrain.min_new_clips": 7, "retrain.replay_share": 0.5})
    assert "retrain" not in NANO.identity() and other.stages == NANO.stages
    first = checkpoint_artifact(NANO, again, *names, "checkpoints/x")
    assert first.version != checkpoint_artifact(NANO, stage, *names, "checkpoints/x").version
    assert first.version != checkpoint_artifact(NANO, again, *names, "checkpoints/y").version
    assert first.inputs[-1] == "checkpoints/x"
    with pytest.raises(ValueError, match="starts from the release checkpoint, and none was given"):
        checkpoint_artifact(NANO, again, *names, None)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="set by the flow `retrain` alone"):
        recipe_by_name("nano", {"stages.verify.init_from": "release"})
    with pytest.raises(ValidationError, match="replay_share and data.selected_share both say"):
        DataSpec(replay_share=0.5, selected_pairs=1, selected_share=0.5)
    with pytest.raises(ValueError, match="retrain.replay_share"):
        recipe_by_name("nano", {"retrain.replay_share": 1.0})


@pytest.mark.parametrize("old, new, share, seen_old, seen_new", [(1000, 10, 0.8, 1000, 250), (6, 6, 0.75, 18, 6), (4, 4, 0.5, 4, 4)])
def test_the_replay_share_is_what_is_seen(old: int, new: int, share: float, seen_old: int, seen_new: int) -> None:
    data = DataSpec(replay_share=share)
    epoch = weighted([False] * old + [True] * new, data.share_of_selected)
    assert (sum(i < old for i in epoch), sum(i >= old for i in epoch)) == (seen_old, seen_new)
    assert set(epoch) == set(range(old + new)), "no clip is left out"
