"""A recipe that is too large for what is there, and the settings with which it would fit: each held against the plan."""

from __future__ import annotations

import shlex

import pytest

from pvtt_model.overrides import parse_override
from pvtt_model.plan import plan_recipe
from pvtt_model.preflight.memory import GIB, Need, Room, figures_of, memory_check, need_of, settings_that_fit
from pvtt_model.recipes import recipe_by_name


def with_settings(name: str, said: str, before: dict | None = None):
    """The recipe with the settings as a person would type them."""
    words = shlex.split(said)
    assert words[::2] == ["--set"] * (len(words) // 2)
    return recipe_by_name(name, (before or {}) | dict(parse_override(word) for word in words[1::2]))


def test_full_fits_eight_80_gib_gpus_and_says_by_how_much():
    recipe = recipe_by_name("full")
    plan = plan_recipe(recipe, "x").stages[1]
    found = memory_check(recipe, recipe.stages[1], Room(80 * GIB, None, 8))
    assert [(c.name, c.status, c.got) for c in found] == [("memory base", "ok", "80.00 GiB free")]
    assert found[0].what.startswith(f"{plan.memory.total / GIB:.2f} GiB a GPU")
    assert figures_of(recipe, recipe.stages[1]).memory == plan.memory, "by itself a stage needs what it needs in its recipe"


def test_a_gpu_too_small_three_settings_that_fit():
    """1.3B without checkpointing and with a batch of 4 wants over 400 GiB."""
    parallel = {"gradient_checkpointing": False, "checkpointing": "full", "micro_batch": 4, "grad_accum": 2}
    before = {f"stages.verify.parallel.{name}": value for name, value in parallel.items()}
    recipe = recipe_by_name("wan2.1-vace-1.3b", before)
    room = Room(40 * GIB, None, 4)
    (found,) = memory_check(recipe, recipe.stages[0], room)
    assert found.status == "fail" and found.cure.count("--set stages.verify") >= 3
    said = settings_that_fit(recipe, recipe.stages[0], room)
    assert len(said) == 3 and len(set(said)) == 3
    for words in said:
        changed = with_settings("wan2.1-vace-1.3b", words, before)
        assert plan_recipe(changed, "x").stages[0].memory.total <= room.gpu, words
        assert words in found.cure
    assert changed.stages[0].parallel.global_batch == recipe.stages[0].parallel.global_batch
    assert said[0] == "--set stages.verify.parallel.gradient_checkpointing=true", "what changes least stands first"


def test_attentions_that_are_kept_are_given_up_first():
    recipe = recipe_by_name("wan2.1-vace-1.3b")
    said = settings_that_fit(recipe, recipe.stages[0], Room(16 * GIB, None, 4))
    assert said[0] == "--set stages.verify.parallel.checkpointing=full"


def test_14b_on_24_gib_gpus_needs_offload_or_a_smaller_clip():
    recipe = recipe_by_name("wan2.1-vace-14b")
    room = Room(24 * GIB, 600 * GIB, 8)
    said = settings_that_fit(recipe, recipe.stages[0], room)
    assert said
    for words in said:
        changed = with_settings("wan2.1-vace-14b", words)
        memory = plan_recipe(changed, "x").stages[0].memory
        need = need_of(figures_of(changed, changed.stages[0]))
        assert memory.total <= room.gpu and need.host * changed.stages[0].parallel.num_workers <= room.host, words


def test_the_machines_memory_counts_the_model_once_a_worker():
    """zero.Init is not used: at ZeRO-3 too every rank builds the whole model first."""
    recipe = recipe_by_name("wan2.1-vace-14b")
    stage = recipe.stages[0]
    p = figures_of(recipe, stage).parameters
    assert need_of(figures_of(recipe, stage)).host == 2 * (p.frozen + p.trained)
    short = memory_check(recipe, stage, Room(80 * GIB, 100 * GIB, 8))
    assert [c.status for c in short] == ["ok", "fail"]
    said = settings_that_fit(recipe, stage, Room(80 * GIB, 100 * GIB, 8))
    assert any("num_workers=2" in words and "grad_accum=16" in words for words in said), said
    assert [c.status for c in memory_check(recipe, stage, Room(80 * GIB, 300 * GIB, 8))] == ["ok", "ok"]


def test_a_cpu_training_needs_it_all_in_the_machines_memory():
    recipe = recipe_by_name("nano")
    stage = recipe.stages[1]
    plan = figures_of(recipe, stage)
    assert need_of(plan) == Need(0, plan.memory.total)
    (found,) = memory_check(recipe, stage, Room(None, 2 * plan.memory.total, 2))
    assert found.status == "ok"
    (found,) = memory_check(recipe, stage, Room(None, 2 * plan.memory.total - 1, 2))
    assert found.status == "fail" and "offload" not in found.cure and "--set" in found.cure


def test_little_left_is_a_warning_and_nothing_that_fits_is_said():
    recipe = recipe_by_name("wan2.1-vace-1.3b")
    stage = recipe.stages[0]
    total = figures_of(recipe, stage).memory.total
    assert [c.status for c in memory_check(recipe, stage, Room(total + GIB // 2, None, 4))] == ["warn"]
    (found,) = memory_check(recipe, stage, Room(10 * 2**20, None, 4))
    assert found.status == "fail" and "use larger memory" in found.cure


@pytest.mark.parametrize("offload", [False, True])
def test_offload_counts_on_the_host(offload):
    recipe = recipe_by_name("wan2.1-vace-1.3b", {"stages.*.parallel.offload_optimizer": offload})
    plan = figures_of(recipe, recipe.stages[0])
    assert (plan.memory.host > 0) == offload and need_of(plan).host >= plan.memory.host
