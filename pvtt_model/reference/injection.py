"""The four ways in which reference pictures reach the transformer, behind one interface; ReferenceSpec.injection names one.

An injection hooks itself on a transformer once. Then, for a forward pass, `encode` makes of the pictures' features what no denoising step changes,
and `lay` puts that where the hooked layers read it; or nothing, and the base answers.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pvtt_model.reference.attention import ReferenceTokens, attach_reference, attach_semantic
from pvtt_model.reference.class_token import ClassTokenProjection
from pvtt_model.reference.features import ReferenceFeatures
from pvtt_model.reference.reference_net import Keys, attach_reference_net
from pvtt_model.reference.resampler import PerceiverResampler
from pvtt_model.specs import ReferenceSpec

#: What `encode` found, a row of each a sample: so the rows of a batch are chosen by indexing each.
Encoded = tuple[Tensor, ...]


class Injection(Protocol):
    """kind: its name in ReferenceSpec. parts: the trained modules beside the transformer, by their name in the teacher and in its files."""

    kind: str
    parts: dict[str, nn.Module]

    def encode(self, transformer: Any, features: ReferenceFeatures, text_BLD: Tensor, num_frames: int) -> Encoded:
        """text_BLD: as the transformer takes it; num_frames: latent frames of the video. Raises ValueError where a feature is missing."""

    def lay(self, transformer: Any, encoded: Encoded | None, present_B: Tensor | None, scales: tuple[float, float]) -> None:
        """present_B: 1 where a sample has a reference, 0 where the base is to answer. scales: of what is added, for the first and the second
        set of tokens; 0 adds nothing."""


class TokenInjection:
    """ip_adapter, ip_adapter_plus, dual_path: sets of reference tokens, each read by a cross-attention of its own beside the text's."""

    def __init__(self, transformer: Any, spec: ReferenceSpec, image_width: int, clip_width: int | None) -> None:
        self.kind: str = spec.injection
        self.words = spec.space == "words"
        out_width = int(transformer.config.text_dim) if self.words else None
        self.parts: dict[str, nn.Module] = {}
        if spec.injection == "ip_adapter":
            self.parts["class_projection"] = ClassTokenProjection(image_width, spec.width, spec.num_tokens, out_width)
        else:
            self.parts["resampler"] = PerceiverResampler(image_width, spec.width, spec.num_tokens, spec.depth, spec.num_heads, out_width)
        width = None if self.words else spec.width
        self.shared: list[ReferenceTokens] = [attach_reference(transformer, width, spec.every_nth_layer, vace_blocks=spec.vace_blocks)]
        if spec.injection == "dual_path":
            if clip_width is None:
                raise ValueError("reference.injection is 'dual_path', and no CLIP's width is given. Set conditions.clip_encoder.")
            semantic = PerceiverResampler(clip_width, spec.width, spec.semantic_tokens, spec.depth, spec.num_heads, out_width)
            self.parts["semantic_resampler"] = semantic
            self.shared.append(attach_semantic(transformer, width))

    def encode(self, transformer: Any, features: ReferenceFeatures, text_BLD: Tensor, num_frames: int) -> Encoded:
        """The sets of tokens (B, N, D) or, in the space 'words', before the base's text projection (B, N, text width)."""
        given = {
            "class_projection": (features.cls_BNC, features.cls_keep_BN),
            "resampler": (features.patches_BPC, features.keep_BP),
            "semantic_resampler": (features.clip_BPC, features.clip_keep_BP),
        }
        found = []
        for name, part in self.parts.items():
            tokens, keep = given[name]
            if tokens is None:
                raise ValueError(f"the injection's {name} is given no features. Read the samples with this recipe's reference.injection.")
            found.append(part(tokens, keep))
        return tuple(found)

    def lay(self, transformer: Any, encoded: Encoded | None, present_B: Tensor | None, scales: tuple[float, float]) -> None:
        for i, shared in enumerate(self.shared):
            tokens = None if encoded is None else encoded[i]
            if tokens is not None and self.words:
                tokens = transformer.condition_embedder.text_embedder(tokens)
            shared.tokens_BND, shared.present_B, shared.scale = tokens, present_B, scales[i]


class ReferenceNetInjection:
    """reference_net: the base's first half, copied, runs over the pictures' latents; its K and V are read beside the video's own."""

    def __init__(self, transformer: Any, spec: ReferenceSpec) -> None:
        self.kind: str = spec.injection
        net, self.shared = attach_reference_net(transformer, spec.every_nth_layer, vace_blocks=spec.vace_blocks)
        self.parts: dict[str, nn.Module] = {"reference_net": net}

    def encode(self, transformer: Any, features: ReferenceFeatures, text_BLD: Tensor, num_frames: int) -> Encoded:
        """The mark of the real tokens (B, R), then K and V (B, R, heads, d) a layer."""
        latents, keep_BN = features.latents_BNCHW, features.latents_keep_BN
        if latents is None:
            raise ValueError("the reference net is given no latents. Read the samples with this recipe's reference.injection.")
        layers: list[Keys] = self.parts["reference_net"](transformer, latents, text_BLD, num_frames)
        tokens = layers[0].key_BRHd.shape[1] // latents.shape[1]
        keep_BN = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device) if keep_BN is None else keep_BN
        return keep_BN.repeat_interleave(tokens, 1), *(x for keys in layers for x in keys)

    def lay(self, transformer: Any, encoded: Encoded | None, present_B: Tensor | None, scales: tuple[float, float]) -> None:
        shared = self.shared
        shared.present_B, shared.scale = present_B, scales[0]
        if encoded is None:
            shared.layers = shared.keep_BR = None
            return
        keep_BR, *tensors = encoded
        shared.keep_BR = None if bool(keep_BR.all()) else keep_BR  # without a mask more attention kernels are open
        shared.layers = [Keys(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]


def build_injection(transformer: Any, spec: ReferenceSpec, image_width: int, clip_width: int | None = None) -> Injection:
    """Hook the injection that `spec` names on a fresh transformer. Its new parameters draw from torch's generator.

    image_width, clip_width: of the image encoder's tokens, and of CLIP's. Raises ValueError as hooked_blocks(), and where dual_path has no CLIP.
    """
    if spec.injection == "reference_net":
        return ReferenceNetInjection(transformer, spec)
    return TokenInjection(transformer, spec, image_width, clip_width)
