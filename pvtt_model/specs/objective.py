"""What training minimises."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pvtt_model.specs.base import Share, Spec


class ObjectiveSpec(Spec):
    """Rectified flow: x_sigma = (1 - sigma) x0 + sigma eps, target eps - x0. arXiv:2209.03003."""

    timestep_sampling: Literal["uniform", "logit_normal"] = "uniform"
    shift: Annotated[float, Field(gt=0)] = Field(default=5.0, description="sigma -> shift sigma / (1 + (shift - 1) sigma)")
    text_dropout: Share = 0.1
    reference_dropout: Share = 0.2
    words_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="weight of the distance between the reference's tokens and the embedding of its product's words, beside the flow loss; "
        "only in reference.space 'words', and only of clips whose manifest names product_words",
    )
    mask_weight: Annotated[float, Field(gt=0)] = Field(default=1.0, description="weight of the loss inside the mask, 1 outside; the mean weight is 1")
