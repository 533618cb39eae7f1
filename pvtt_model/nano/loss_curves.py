"""The loss curves of the untrained nano bases that ship with the project: what a training's loss by noise level is held against. Light: no torch."""

from __future__ import annotations

import json
from pathlib import Path

from pvtt_model.artifacts import digest
from pvtt_model.evaluation.loss_by_level import Curve
from pvtt_model.specs import RecipeSpec, StageSpec

CURVES = Path(__file__).parent / "loss_curves.json"


def curve_key(recipe: RecipeSpec, stage: StageSpec) -> str:
    """What a curve hangs on: the base, how clips become latents and conditions, and which conditions are dropped."""
    dropped = [stage.objective.text_dropout, stage.objective.joint_dropout]
    return digest("loss curve", stage.backbone.identity(), recipe.latents.identity(), recipe.conditions.identity(), dropped)


def shipped_curve(recipe: RecipeSpec, stage: StageSpec) -> Curve | None:
    """The curve measured with these very settings, or None."""
    curves = json.loads(CURVES.read_text()) if CURVES.exists() else {}
    found = curves.get(curve_key(recipe, stage))
    return Curve.from_json(found) if found else None
