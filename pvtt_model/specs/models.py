"""A frozen model, by name and by where its weights are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pvtt_model.specs.base import Added, Spec


class ModelSpec(Spec):
    """A frozen model: its architecture by name, and where the weights are."""

    architecture: str = Field(description="a name of pvtt_model.backbones.architectures, e.g. 'wan2.1-vae', 'nano-vae'")
    weights: str = Field(
        description="'nano:NAME' (trained, shipped in pvtt_model/nano/weights), 'seed:N' (random, nano sizes only), a local folder, "
        "s3://bucket/prefix, or hf://owner/name"
    )
    revision: str | None = Field(default=None, description="commit of the hub repository; required for hf://")
    sha256: str | None = Field(default=None, description="of the single weight file, checked before loading")

    @field_validator("weights")
    @classmethod
    def _known_form(cls, weights: str) -> str:
        if "@" in weights.partition("://")[2].split("/")[0]:
            raise ValueError("weights hold a credential before '@'. Leave it to the AWS environment, and write s3://bucket/prefix.")
        scheme = weights.partition("://")[0] if "://" in weights else weights.partition(":")[0] if weights.startswith(("seed:", "nano:")) else "path"
        unnamed = (scheme == "seed" and not weights.removeprefix("seed:").isdigit()) or weights == "nano:"
        if scheme not in ("path", "s3", "hf", "seed", "nano") or unnamed or not weights:
            raise ValueError(
                f"weights '{weights}' are of no known form. Use 'nano:NAME', 'seed:N', a local folder, s3://bucket/prefix or hf://owner/name."
            )
        return weights

    @model_validator(mode="after")
    def _hub_is_pinned(self) -> ModelSpec:
        if self.weights.startswith("hf://") and not self.revision:
            raise ValueError(f"weights '{self.weights}' name no revision. Set `revision` to the hub commit, so that the run can be repeated.")
        return self


class BackboneSpec(ModelSpec):
    """The video diffusion transformer, frozen."""

    expert: Literal["high", "low"] | None = Added(
        None,
        description="of a backbone of two experts (Wan2.2's A14B) the one that is trained: high, at and above the architecture's boundary of the "
        "noise levels, or low, below it; null: the backbone is one network",
    )
