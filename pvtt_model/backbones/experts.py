"""Wan2.2's two experts: which noise levels are whose. Light: imports no torch. github.com/Wan-Video/Wan2.2, after arXiv:2503.20314.

The boundary is a noise level, 0.875 for text-to-video and 0.9 for image-to-video: from it up the high-noise expert answers, below it the other,
as diffusers' `timestep >= boundary_ratio * 1000` has it.
"""

from __future__ import annotations

from pvtt_model.backbones.architectures import architecture
from pvtt_model.specs import BackboneSpec


def level_range(backbone: BackboneSpec) -> tuple[float, float]:
    """(low, high): the noise levels that a stage on this backbone trains on; all of them, (0, 1), where it is one network."""
    boundary = architecture(backbone.architecture, "dit").boundary
    if boundary is None or backbone.expert is None:
        return 0.0, 1.0
    return (boundary, 1.0) if backbone.expert == "high" else (0.0, boundary)
