"""What the injections read of a clip's reference pictures, and of several clips as one batch.

    injection         reads                                                            stored where
    ip_adapter        cls       the image encoder's class token, one a picture          conditions, conditions.class_tokens
    ip_adapter_plus   patches   its patch tokens                                        conditions, always
    dual_path         patches, and clip: CLIP's tokens before its last block            conditions, conditions.clip_encoder
    reference_net     latents   the pictures letterboxed to the video's size, encoded   latents, latents.references

Clips may have different numbers of pictures: what is padded is marked, and no injection's answer hangs on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pvtt_model.curation.variants import variant_name

#: The fields of PictureFeatures that an injection reads.
READS: dict[str, frozenset[str]] = {
    "ip_adapter": frozenset({"cls_NC"}),
    "ip_adapter_plus": frozenset({"patches_PC"}),
    "dual_path": frozenset({"patches_PC", "clip_PC"}),
    "reference_net": frozenset({"latents_NCHW"}),
}

#: Where a field is stored: the row's tensor of pictures, and what makes curation store it.
STORED = {
    "patches_PC": ("reference_NPC", "conditions"),
    "cls_NC": ("reference_NC", "conditions.class_tokens=true"),
    "clip_PC": ("clip_NPC", "conditions.clip_encoder"),
    "latents_NCHW": ("references_NCFHW", "latents.references='white' or 'own'"),
}


class PictureFeatures(NamedTuple):
    """Of one clip's N pictures, behind one another; None what is not stored or not read."""

    patches_PC: Tensor | None = None
    cls_NC: Tensor | None = None
    clip_PC: Tensor | None = None
    latents_NCHW: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> PictureFeatures:
        return PictureFeatures(*(None if t is None else t.to(device, dtype) for t in self))


class ReferenceFeatures(NamedTuple):
    """A batch of them, padded with zeros; `keep` marks the real ones. A field that no clip has is None."""

    patches_BPC: Tensor | None = None
    keep_BP: Tensor | None = None
    cls_BNC: Tensor | None = None
    cls_keep_BN: Tensor | None = None
    clip_BPC: Tensor | None = None
    clip_keep_BP: Tensor | None = None
    latents_BNCHW: Tensor | None = None
    latents_keep_BN: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> ReferenceFeatures:
        """The marks keep their type."""
        return ReferenceFeatures(*(None if t is None else t.to(device, torch.bool if t.dtype == torch.bool else dtype) for t in self))


def pictures_of(row: Mapping[str, Tensor], injection: str, variant: int = 0) -> PictureFeatures:
    """What the injection reads of a clip's pictures, float32, of the tensors of its conditions row and its latents row together.

    variant: of the augmented pictures; of their latents there is one. Raises ValueError where a tensor is not there, naming the field to set.
    """
    found = {}
    for field in READS[injection]:
        stored, setting = STORED[field]
        name = stored if field == "latents_NCHW" else variant_name(stored, variant)
        if name not in row:
            raise ValueError(f"a row holds no '{name}', which reference.injection '{injection}' reads. Set {setting}, and re-run curation.")
        tensor = row[name].float()
        found[field] = tensor.squeeze(2) if field == "latents_NCHW" else tensor if field == "cls_NC" else tensor.flatten(0, 1)
    return PictureFeatures(**found)


def stack_features(clips: Sequence[PictureFeatures]) -> ReferenceFeatures:
    """Features of clips as a batch. Raises ValueError where some clips have what others lack, or latents of different sizes."""
    found: list[Tensor | None] = []
    for name in PictureFeatures._fields:
        given = [t for clip in clips if (t := getattr(clip, name)) is not None]
        if given and len(given) != len(clips):
            raise ValueError(f"{len(given)} of {len(clips)} clips have the reference's {name}. Re-run curation of the others with this recipe.")
        if len({t.shape[1:] for t in given}) > 1:
            raise ValueError(f"the clips' {name} are of shapes {[tuple(t.shape) for t in given]}. Batch clips of one size and one encoder.")
        found += stack_references(given) if given else (None, None)
    return ReferenceFeatures(*found)


def stack_references(references: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tensors (P_i, ...) of unequal length -> (B, P, ...), zeros behind their ends, and the mark of the real ones (B, P)."""
    longest = max(len(r) for r in references)
    keep = torch.tensor([[i < len(r) for i in range(longest)] for r in references], device=references[0].device)
    return torch.stack([torch.cat([r, r.new_zeros(longest - len(r), *r.shape[1:])]) for r in references]), keep
