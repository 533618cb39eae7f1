from __future__ import annotations

import pytest

from pvtt_model.evaluation.score import score_row
from pvtt_model.evaluation.score_more import Networks
from pvtt_model.specs import EvalSpec, ModelSpec


def test_a_stage_that_asks_for_nothing_more_gets_and_is_what_it_was(edits_row, histogram, mean_colour, nano_eval) -> None:
    plain = score_row(edits_row(), nano_eval, mean_colour, histogram)
    assert not [name for name in plain.scores if name.startswith(("warp", "bg_lpips", "temporal", "added", "dynamic", "structure", "edit_d"))]
    assert set(nano_eval.identity()) == {"clip", "dino", "judge", "candidates", "crop_margin"}
    with pytest.raises(ValueError, match="Input should be"):
        EvalSpec(clip=nano_eval.clip, dino=nano_eval.dino, more=("sharpness",))


def test_what_is_asked_for_is_there_with_its_context_and_its_networks_name(edits_row, histogram, mean_colour, nano_eval, raft_small, stlpips) -> None:
    flow, lpips = (ModelSpec(architecture=name, weights="/w") for name in ("raft-small", "stlpips-alex"))
    spec = nano_eval.model_copy(update={"flow": flow, "lpips": lpips, "more": ("flicker", "dynamic_degree", "edit_direction")})
    row = edits_row(side=48, frames=2, source_prompt="a green box on a table")
    scores = score_row(row, spec, mean_colour, histogram, networks=Networks(raft_small, stlpips)).scores
    lpips_of = {suffix: scores[f"bg_lpips{suffix}[stlpips-alex]"] for suffix in ("", "_composited", "_ceiling")}
    assert lpips_of[""].value > lpips_of["_ceiling"].value >= 0 == lpips_of["_composited"].value
    assert [s.direction for s in lpips_of.values()] == ["lower", "lower", "context"]
    error = scores["warp_error[raft-small]"]
    assert error.extractor == "raft-small" and error.direction == "lower" and 0 < scores["warp_error_source[raft-small]"].value < 1
    assert scores["added_flicker"].value > 0 == scores["added_flicker_composited"].value
    assert scores["dynamic_degree_source"].direction == "context" and scores["temporal_flicker"].value < 1
    assert scores["edit_direction[mean-colour]"].value > 0.9
    silent = score_row(edits_row(side=48, frames=2), spec.model_copy(update={"flow": None, "lpips": None}), mean_colour, histogram).scores
    assert silent["edit_direction[mean-colour]"].value is None and "prompt is empty" in silent["edit_direction[mean-colour]"].note


def test_structure_by_the_stages_own_image_encoder(edits_row, mean_colour, nano_eval) -> None:
    from pvtt_model.backbones.image import load_image_encoder
    from pvtt_model.nano.shipped import FOLDER, shipped

    spec = nano_eval.model_copy(update={"more": ("structure_distance",), "dino": shipped("dinov2", ModelSpec)})
    scores = score_row(edits_row(side=48, frames=2), spec, mean_colour, load_image_encoder(spec.dino, FOLDER / "dinov2")).scores
    assert scores["structure_distance[nano-dinov2]"].value > scores["structure_distance_ceiling[nano-dinov2]"].value >= 0
