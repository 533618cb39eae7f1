"""Features that were asked for before: of a video that several metrics look at, and of references and sources that several edits share."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

MOST_BYTES = 256 << 20  # of features kept by one network; the least lately asked go first
ASKED = ("embed", "embed_images", "embed_texts", "last_keys", "feature_map")


class Remembered:
    """A frozen network as it is, but for ASKED: what it is given again, to the bit, it answers from memory.

    A call is remembered whole, so its numbers do not depend on what was asked before. Anything else of the network is passed on.
    """

    def __init__(self, network: Any, most_bytes: int = MOST_BYTES) -> None:
        self._network, self._most = network, most_bytes
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._bytes = 0
        self.asked = self.found = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._network, name)
        return self._remembering(name, value) if name in ASKED else value

    def _remembering(self, name: str, call: Callable[[Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
        def answer(given: Any) -> torch.Tensor:
            key = _digest(name, given)
            self.asked += 1
            if key in self._kept:
                self.found += 1
                self._kept.move_to_end(key)
                return self._kept[key].clone()
            features = call(given)
            self._keep(key, features)
            return features

        return answer

    def _keep(self, key: bytes, features: torch.Tensor) -> None:
        size = features.numel() * features.element_size()
        if size > self._most:
            return
        self._kept[key] = features.clone()
        self._bytes += size
        while self._bytes > self._most:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.numel() * old.element_size()


def _digest(name: str, given: Any) -> bytes:
    """Of what a network is given: a float tensor, or texts."""
    hashed = hashlib.sha256(name.encode())
    if isinstance(given, torch.Tensor):
        hashed.update(f"{given.dtype} {tuple(given.shape)}".encode())
        hashed.update(given.detach().contiguous().cpu().numpy().tobytes())
    else:
        hashed.update("\0".join(given).encode())
    return hashed.digest()
