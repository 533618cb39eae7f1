"""What the nano world is known by, before and without rendering it. Light: a run that reuses everything imports no torch for it."""

from __future__ import annotations

from pvtt_model.artifacts import digest
from pvtt_model.specs import NanoWorldSpec

#: Raise it whenever a frame, a mask or a caption of the same spec changes.
NANO_WORLD_REVISION = 2


def world_fingerprint(spec: NanoWorldSpec) -> str:
    """Identity of the world's content, without rendering it."""
    return digest("nano-world", NANO_WORLD_REVISION, spec.identity())
