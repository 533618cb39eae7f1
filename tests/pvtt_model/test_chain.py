"""The planned chain: what each artifact is named after."""

from __future__ import annotations

import pytest

from pvtt_model import chain
from pvtt_model.recipes import recipe_by_name


def test_a_stage_from_the_base_does_not_depend_on_the_one_before():
    recipe = recipe_by_name("wan2.1-vace-14b")
    base, refine = recipe.stages
    names = ("latents/a", "conditions/b", "masks/c", "clips/d")
    assert chain.checkpoint_artifact(recipe, base, *names, "checkpoints/x") == chain.checkpoint_artifact(recipe, base, *names, None)
    assert chain.checkpoint_artifact(recipe, refine, *names, "checkpoints/x").inputs[-1] == "checkpoints/x"
    with pytest.raises(ValueError, match="set init_from='base'"):
        chain.checkpoint_artifact(recipe, refine, *names, None)


def test_clips_follow_content_size_and_base():
    nano = recipe_by_name("nano")
    one = chain.clips_artifact(nano, "content")
    assert one != chain.clips_artifact(recipe_by_name("nano", {"clips.decode_timeout_s": 5}), "content")
    assert len({one.version, chain.clips_artifact(nano, "other").version, chain.clips_artifact(nano, "content", one.name).version}) == 3
    assert one != chain.clips_artifact(recipe_by_name("nano", {"latents.video.num_frames": nano.latents.video.num_frames + 4}), "content")
