"""What editing needs of a recipe, from wherever a teacher comes: a store, a release folder, a recipe."""

from __future__ import annotations

from typing import Literal

from pvtt_model.specs.base import Spec
from pvtt_model.specs.conditions import ConditionSpec
from pvtt_model.specs.editing import EditSpec
from pvtt_model.specs.latents import LatentSpec
from pvtt_model.specs.lora import LoraSpec
from pvtt_model.specs.masks import MaskSpec
from pvtt_model.specs.models import BackboneSpec
from pvtt_model.specs.recipe import RecipeSpec
from pvtt_model.specs.reference import ReferenceSpec


class EditorSpec(Spec):
    """One trained stage and the frozen models round it: encoders, sizes, mask policy and fill as in training."""

    recipe: str
    stage: str
    backbone: BackboneSpec
    reference: ReferenceSpec = ReferenceSpec()
    lora: LoraSpec = LoraSpec()
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    masks: MaskSpec = MaskSpec()
    latents: LatentSpec
    conditions: ConditionSpec
    edit: EditSpec = EditSpec()

    @classmethod
    def of(cls, recipe: RecipeSpec, stage_name: str | None = None) -> EditorSpec:
        """Of a stage of the recipe, the last where none is named. Raises ValueError naming the stages."""
        stages = {stage.name: stage for stage in recipe.stages}
        name = stage_name or recipe.stages[-1].name
        if name not in stages:
            raise ValueError(f"recipe '{recipe.name}' has no stage '{name}'. Valid: {', '.join(stages)}.")
        stage = stages[name]
        return cls(
            recipe=recipe.name,
            stage=name,
            backbone=stage.backbone,
            reference=stage.reference,
            lora=stage.lora,
            precision=stage.parallel.precision,
            masks=recipe.masks,
            latents=recipe.latents,
            conditions=recipe.conditions,
            edit=stage.edit,
        )
