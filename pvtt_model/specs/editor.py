"""What editing needs of a recipe, from wherever a teacher comes: a store, a release folder, a recipe."""

from __future__ import annotations

from typing import Literal

from pvtt_model.specs.base import Added, Spec
from pvtt_model.specs.conditions import ConditionSpec
from pvtt_model.specs.editing import EditSpec
from pvtt_model.specs.latents import LatentSpec
from pvtt_model.specs.lora import LoraSpec
from pvtt_model.specs.masks import MaskSpec
from pvtt_model.specs.models import BackboneSpec
from pvtt_model.specs.recipe import RecipeSpec
from pvtt_model.specs.reference import ReferenceSpec


class PartnerSpec(Spec):
    """Of two experts the one that the stage did not train: as an earlier stage trained it, else as it was published."""

    backbone: BackboneSpec
    reference: ReferenceSpec = ReferenceSpec()
    lora: LoraSpec = LoraSpec()

    @classmethod
    def published(cls, backbone: BackboneSpec, reference: ReferenceSpec, lora: LoraSpec) -> PartnerSpec:
        """The other expert of `backbone`, untrained."""
        other = backbone.model_copy(update={"expert": "low" if backbone.expert == "high" else "high"})
        return cls(backbone=other, reference=reference, lora=lora)


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
    partner: PartnerSpec | None = Added(None)

    @classmethod
    def of(cls, recipe: RecipeSpec, stage_name: str | None = None) -> EditorSpec:
        """Of a stage of the recipe, the last where none is named. Raises ValueError naming the stages."""
        stages = {stage.name: stage for stage in recipe.stages}
        name = stage_name or recipe.stages[-1].name
        if name not in stages:
            raise ValueError(f"recipe '{recipe.name}' has no stage '{name}'. Valid: {', '.join(stages)}.")
        stage = stages[name]
        partner, other = None, recipe.partner_of(stage)
        if stage.backbone.expert is not None:
            partner = PartnerSpec.published(stage.backbone, stage.reference, stage.lora)
        if other is not None:
            partner = PartnerSpec(backbone=other.backbone, reference=other.reference, lora=other.lora)
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
            partner=partner,
        )
