"""A stage of the curriculum, and a recipe: everything a run needs to know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pvtt_model.specs.base import Added, Execution, Spec
from pvtt_model.specs.clips import ClipSpec, NanoWorldSpec
from pvtt_model.specs.conditions import ConditionSpec
from pvtt_model.specs.editing import EditSpec
from pvtt_model.specs.evaluation import EvalSpec, GateSpec
from pvtt_model.specs.latents import LatentSpec
from pvtt_model.specs.lora import LoraSpec
from pvtt_model.specs.masks import MaskSpec
from pvtt_model.specs.models import BackboneSpec
from pvtt_model.specs.objective import ObjectiveSpec
from pvtt_model.specs.reference import ReferenceSpec
from pvtt_model.specs.retraining import RetrainSpec
from pvtt_model.specs.training import DataSpec, OptimSpec, ParallelSpec, TrainSpec


class StageSpec(Spec):
    """One stage of the curriculum: train, edit, judge, gate."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    backbone: BackboneSpec
    reference: ReferenceSpec = ReferenceSpec()
    lora: LoraSpec = LoraSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    optim: OptimSpec = OptimSpec()
    parallel: ParallelSpec = ParallelSpec()
    train: TrainSpec
    data: DataSpec = DataSpec()
    init_from: Literal["base", "previous", "release"] = Field(
        default="base",
        description="previous: what fits of the stage before (all at the same size, the resampler at another); release: this stage's own released "
        "checkpoint, which re-training gives",
    )
    init_optimizer: Literal["fresh", "kept"] = Added(
        "fresh", description="kept: AdamW's moments and step count of the stage before go on; that stage has train.keep_optimizer, and all its sizes"
    )
    edit: EditSpec = EditSpec()
    evaluate: EvalSpec
    gate: GateSpec

    @model_validator(mode="after")
    def _words_have_a_space(self) -> StageSpec:
        if self.objective.words_weight and self.reference.space != "words":
            raise ValueError(
                f"stage '{self.name}': objective.words_weight is {self.objective.words_weight}, but reference.space is '{self.reference.space}', "
                "whose tokens are not words. Set reference.space='words', or words_weight=0."
            )
        return self

    @model_validator(mode="after")
    def _losses_have_patches(self) -> StageSpec:
        asked = [f for f in ("identity_weight", "reference_recon_weight") if getattr(self.objective, f)]
        if asked and self.reference.injection not in ("ip_adapter_plus", "dual_path"):
            raise ValueError(
                f"stage '{self.name}': objective.{asked[0]} compares with the reference's patch tokens, which reference.injection "
                f"'{self.reference.injection}' does not read. Use ip_adapter_plus or dual_path, or set objective.{asked[0]}=0."
            )
        return self

    @model_validator(mode="after")
    def _weights_are_whole(self) -> StageSpec:
        if self.parallel.sharding == 3 and (self.lora.kind == "dora" or self.lora.quantize):
            what = "lora.kind='dora'" if self.lora.kind == "dora" else f"lora.quantize='{self.lora.quantize}'"
            raise ValueError(
                f"stage '{self.name}': {what} reads whole base weights in every step, and {self.parallel.label()} has cut them apart. "
                "Set parallel.strategy=deepspeed parallel.zero_stage=2 (a 4-bit base is a quarter of its bfloat16 size), or take plain LoRA."
            )
        return self

    @model_validator(mode="after")
    def _average_is_at_hand(self) -> StageSpec:
        if self.train.ema_decay is not None and self.parallel.offload_folder is not None and self.parallel.offload_optimizer:
            raise ValueError(
                f"stage '{self.name}': train.ema_decay averages AdamW's numbers after every step, and parallel.offload_folder has them on a disk. "
                "Set ema_decay=null, or offload_folder=null."
            )
        return self


class RecipeSpec(Spec):
    """Everything a run needs to know, from raw clips to release."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    description: str = Execution("")
    world: NanoWorldSpec = NanoWorldSpec()
    clips: ClipSpec = ClipSpec()
    masks: MaskSpec = MaskSpec()
    latents: LatentSpec
    conditions: ConditionSpec
    stages: tuple[StageSpec, ...] = Field(min_length=1)
    retrain: RetrainSpec = Added(RetrainSpec())

    @model_validator(mode="after")
    def _stages_are_told_apart(self) -> RecipeSpec:
        names = [s.name for s in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages share a name: {names}. Give each its own.")
        for stage in self.stages:
            self._stores_what_it_reads(stage)
        if self.stages[0].init_from == "previous":
            raise ValueError(f"stage '{names[0]}' is the first and cannot start from a previous one. Set init_from='base'.")
        return self

    def _stores_what_it_reads(self, stage: StageSpec) -> None:
        """Raises ValueError where the stage's injection reads of the pictures what the data will not hold, naming the field."""
        lacking = {
            "ip_adapter": None if self.conditions.class_tokens else "the image encoder's class tokens: set conditions.class_tokens=true",
            "dual_path": None if self.conditions.clip_encoder else "CLIP's tokens: set conditions.clip_encoder, e.g. the stages' evaluate.clip",
            "reference_net": "the pictures' latents: set latents.references='white' or 'own'" if self.latents.references == "none" else None,
        }.get(stage.reference.injection)
        if lacking:
            raise ValueError(f"stage '{stage.name}' has reference.injection '{stage.reference.injection}', which reads {lacking}.")

    @model_validator(mode="after")
    def _carried_parts_fit(self) -> RecipeSpec:
        """What a stage takes over and does not train has to fit it as it is."""
        held: set[str] = set()
        for before, stage in zip((None, *self.stages), self.stages, strict=False):
            trained: set[str] = set(stage.train.trained)
            if before is None or stage.init_from != "previous":  # a released checkpoint is of this very stage
                held = trained
                continue
            differ = [part for part in ("backbone", "reference", "lora") if getattr(before, part) != getattr(stage, part)]
            carried = sorted((held - trained) & {"lora", "adapter"})
            if carried and differ:
                raise ValueError(
                    f"stage '{stage.name}' takes over what '{before.name}' trained, does not train {carried} itself, and has another "
                    f"{' and '.join(differ)}. Name {carried} in train.trained, or leave these settings as they were."
                )
            held |= trained
        return self

    @model_validator(mode="after")
    def _kept_optimizers_fit(self) -> RecipeSpec:
        """A kept optimizer state is cut as the trained tensors and the workers are."""
        for before, stage in zip((None, *self.stages), self.stages, strict=False):
            if stage.init_optimizer == "fresh":
                continue
            if before is None or stage.init_from != "previous":
                raise ValueError(
                    f"stage '{stage.name}' keeps an optimizer and starts from the {stage.init_from}. "
                    "Set init_from='previous', or init_optimizer='fresh'."
                )
            if not before.train.keep_optimizer:
                raise ValueError(
                    f"stage '{stage.name}' goes on with the optimizer of '{before.name}', which keeps none. Set "
                    f"stages.{before.name}.train.keep_optimizer=true, or stages.{stage.name}.init_optimizer='fresh'."
                )
            if before.train.release == "best" or before.train.release_ema:
                raise ValueError(
                    f"stage '{stage.name}' goes on with the optimizer of '{before.name}', which is of its last step, and '{before.name}' releases "
                    f"another state. Set its train.release='last' and release_ema=false, or stages.{stage.name}.init_optimizer='fresh'."
                )
            differ = [part for part in ("backbone", "reference", "lora") if getattr(before, part) != getattr(stage, part)]
            differ += [
                f"parallel.{n}" for n in ("num_workers", "zero_stage", "strategy") if getattr(before.parallel, n) != getattr(stage.parallel, n)
            ]
            differ += ["train.trained"] if before.train.trained != stage.train.trained else []
            if differ:
                raise ValueError(
                    f"stage '{stage.name}' goes on with the optimizer of '{before.name}', and has another {' and '.join(differ)}: its moments are of "
                    f"other tensors. Leave these as they were, or set stages.{stage.name}.init_optimizer='fresh'."
                )
        return self

    def retraining(self) -> RecipeSpec:
        """The recipe of a re-training, by `retrain`: the last stage, and of two experts also the other one's last, each from its released checkpoint.

        The stages' own selection of pairs gives way to `retrain.replay_share`. The recipe itself where it starts from the base.
        """
        how = self.retrain
        if how.start_from == "base":
            return self
        last = self.stages[-1]
        stages = []
        for stage in (self.partner_of(last), last):
            if stage is not None:
                train = stage.train.model_copy(update={"steps": how.steps or stage.train.steps})
                optim = stage.optim.model_copy(update={"lr": how.lr or stage.optim.lr})
                data = stage.data.model_copy(update={"replay_share": how.replay_share, "selected_pairs": None, "selected_share": None})
                changes = {"init_from": "release", "init_optimizer": "fresh", "train": train, "optim": optim, "data": data}
                stages.append(stage.model_copy(update=changes))
        return RecipeSpec.model_validate(self.model_copy(update={"stages": tuple(stages)}).model_dump(mode="json"))

    def partner_of(self, stage: StageSpec) -> StageSpec | None:
        """The last earlier stage that trains the other expert of the stage's backbone; None where there is none."""
        earlier = self.stages[: self.stages.index(stage)]
        of = stage.backbone
        others = [s for s in earlier if of.expert and s.backbone.architecture == of.architecture and s.backbone.expert not in (of.expert, None)]
        return others[-1] if others else None
