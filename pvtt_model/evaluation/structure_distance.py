"""Structure distance: did the layout of the frame change, whatever its colours? Lower is better; 0 to 4.

Mean squared difference of two self-similarity matrices, the cosines between all keys of a ViT's last attention (Splice, arXiv:2201.00424;
its metric as PnP Inversion reports it, arXiv:2310.01506, there with DINO ViT-B/8). With a ConvNet, which has no keys, the
cells of its feature map. An edit that replaces the product changes some structure by its purpose: read it beside the source's round trip.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pvtt_model.backbones.image import ImageEncoder
from pvtt_model.evaluation.frames import same_shape, to_unit

_FRAMES_AT_ONCE = 4


@torch.no_grad()
def structure_distance(network: ImageEncoder, edit_TCHW: torch.Tensor, source_TCHW: torch.Tensor) -> float:
    """Mean over frames; uint8 videos, each frame squeezed to the network's square. Raises ValueError for unlike shapes."""
    same_shape(edit_TCHW, source_TCHW)
    values = [
        (self_similarity(network, edit) - self_similarity(network, source)).square().mean(dim=(1, 2))
        for edit, source in zip(edit_TCHW.split(_FRAMES_AT_ONCE), source_TCHW.split(_FRAMES_AT_ONCE), strict=True)
    ]
    return float(torch.cat(values).mean())


def self_similarity(network: ImageEncoder, frames_TCHW: torch.Tensor) -> torch.Tensor:
    """T,N,N cosines in [-1, 1] between a frame's N keys (class token first), or cells."""
    side = network.side
    squares = F.interpolate(to_unit(frames_TCHW), size=(side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
    tokens_TNC = network.last_keys(squares) if network.is_vit else network.feature_map(squares).flatten(2).transpose(1, 2)
    unit = F.normalize(tokens_TNC.float(), dim=-1)
    return unit @ unit.transpose(1, 2)
