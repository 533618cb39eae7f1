"""What training minimises."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pvtt_model.specs.base import Added, Positive, Share, Spec


class ObjectiveSpec(Spec):
    """Rectified flow: x_sigma = (1 - sigma) x0 + sigma eps, target eps - x0. arXiv:2209.03003."""

    timestep_sampling: Literal["uniform", "logit_normal", "mode"] = "uniform"
    shift: Annotated[float, Field(gt=0)] = Field(default=5.0, description="sigma -> shift sigma / (1 + (shift - 1) sigma)")
    text_dropout: Share = 0.1
    reference_dropout: Share = 0.2
    words_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="weight of the distance between the reference's tokens and the embedding of its product's words, beside the flow loss; "
        "only in reference.space 'words', and only of clips whose manifest names product_words",
    )
    mask_weight: Annotated[float, Field(gt=0)] = Field(default=1.0, description="weight of the loss inside the mask, 1 outside; the mean weight is 1")
    joint_dropout: Share = Added(
        0.0, description="share of samples that lose text and reference together, beside text_dropout and reference_dropout, which are drawn apart"
    )
    logit_mean: float = Added(0.0, description="of logit_normal: location; positive is noisier")
    logit_std: float = Added(1.0, description="of logit_normal: scale", gt=0)
    mode_scale: float = Added(
        1.29, description="s of mode, arXiv:2403.03206 eq. 20: more of the middle the larger, uniform at 0", ge=-1, le=2 / (math.pi - 2)
    )
    shift_by: Literal["fixed", "tokens", "tokens_linear"] = Added(
        "fixed",
        description="fixed: `shift` for every clip; tokens: shift sqrt(tokens / base_tokens) (SD3, eq. 23); tokens_linear: the logarithm of the "
        "shift on a line from `shift` at base_tokens to far_shift at far_tokens (Flux)",
    )
    base_tokens: int = Added(32_760, description="tokens at which `shift` holds; the default is 832 x 480 and 81 frames", gt=0)
    far_tokens: int = Added(75_600, description="of tokens_linear; the default is 1280 x 720 and 81 frames", gt=0)
    far_shift: float | None = Added(None, description="of tokens_linear: the shift at far_tokens", gt=0)
    sigma_low: Share = Added(0.0, description="levels below are never drawn: the sampling's density is cut there")
    sigma_high: Share = Added(1.0, description="and levels above")
    weighting: Literal["none", "min_snr", "sigma_sqrt", "cosmap", "bell"] = Added(
        "none",
        description="weight of the loss by noise level: min_snr (arXiv:2303.09556), sigma_sqrt, cosmap (SD3's scripts), bell (DiffSynth's for Wan)",
    )
    min_snr_gamma: float = Added(5.0, description="of min_snr: the signal-to-noise ratio above which a level counts no more", gt=0)
    identity_weight: float = Added(
        0.0,
        description="weight of 1 - cosine between the product decoded from the estimated clip and its reference, both by the image encoder; "
        "needs gradients through the VAE's decoder: costs time and memory",
        ge=0,
    )
    identity_below: Share = Added(0.3, description="noise level below which the identity loss is taken: above, the estimate is no picture")
    identity_frames: Positive = Added(1, description="latent frames that the identity loss decodes, from the clip's first on: 1, 5, 9, .. frames")
    reference_recon_weight: float = Added(
        0.0,
        description="weight of the error of a small probe that tells the reference's features from the resampler's tokens; "
        "the probe is trained with them and left out of the checkpoint's files",
        ge=0,
    )

    @model_validator(mode="after")
    def _levels_have_room(self) -> ObjectiveSpec:
        if self.sigma_low >= self.sigma_high:
            raise ValueError(
                f"objective.sigma_low {self.sigma_low} is not below sigma_high {self.sigma_high}. Give 0 <= sigma_low < sigma_high <= 1."
            )
        if self.shift_by == "tokens_linear" and (self.far_shift is None or self.far_tokens == self.base_tokens):
            raise ValueError(
                f"objective.shift_by is 'tokens_linear' with far_shift {self.far_shift} at {self.far_tokens} tokens, base_tokens {self.base_tokens}. "
                "Set far_shift, and far_tokens other than base_tokens."
            )
        if self.identity_weight and self.identity_below <= self.sigma_low:
            raise ValueError(
                f"objective.identity_below {self.identity_below} is not above sigma_low {self.sigma_low}: no sample would have an identity loss. "
                "Raise identity_below, or set identity_weight=0."
            )
        return self
