"""Typed, frozen settings; a file a part. A spec says what is made; where and how fast is the infrastructure's business."""

from pvtt_model.specs.base import Added, Execution, Positive, Share, Spec
from pvtt_model.specs.clips import ClipSpec, NanoWorldSpec
from pvtt_model.specs.conditions import AugmentSpec, ConditionSpec
from pvtt_model.specs.editing import EditSpec
from pvtt_model.specs.editor import EditorSpec, PartnerSpec
from pvtt_model.specs.evaluation import EvalSpec, GateSpec, MoreMetrics, Threshold
from pvtt_model.specs.latents import LatentSpec, VideoAugmentSpec
from pvtt_model.specs.lora import LORA_ALIASES, LORA_TARGETS, LoraSpec
from pvtt_model.specs.masks import MaskPolicy, MaskSpec
from pvtt_model.specs.models import BackboneSpec, ModelSpec
from pvtt_model.specs.objective import ObjectiveSpec
from pvtt_model.specs.recipe import RecipeSpec, StageSpec
from pvtt_model.specs.reference import ReferenceSpec
from pvtt_model.specs.retraining import Decision, RetrainSpec
from pvtt_model.specs.training import DataSpec, OptimSpec, ParallelSpec, TrainSpec
from pvtt_model.specs.video import VideoSpec

__all__ = [
    "Added",
    "AugmentSpec",
    "BackboneSpec",
    "ClipSpec",
    "ConditionSpec",
    "DataSpec",
    "Decision",
    "EditSpec",
    "EditorSpec",
    "EvalSpec",
    "MoreMetrics",
    "Execution",
    "GateSpec",
    "LORA_ALIASES",
    "LORA_TARGETS",
    "LatentSpec",
    "LoraSpec",
    "MaskPolicy",
    "MaskSpec",
    "ModelSpec",
    "NanoWorldSpec",
    "ObjectiveSpec",
    "OptimSpec",
    "ParallelSpec",
    "PartnerSpec",
    "Positive",
    "RecipeSpec",
    "ReferenceSpec",
    "RetrainSpec",
    "Share",
    "Spec",
    "StageSpec",
    "Threshold",
    "TrainSpec",
    "VideoAugmentSpec",
    "VideoSpec",
]
