"""LoRA Composer: each adapter acts in a region of its own. After arXiv:2403.11627 (its region-aware injection; it optimises latents besides,
which is left out)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtt_model.low_rank.active import activate, adapters_kept, refuse_unknown
from pvtt_model.low_rank.load import adapted_layers


class Composer:
    """Inside, the update of each adapter reaches only the video tokens of its region; the base answers elsewhere.

        with Composer(transformer, {"mug": mug_FHW, "lamp": lamp_FHW}):
            ...

    regions: bool masks (F, H, W) over latent cells; a token of patch (1, 2, 2) is in a region where any of its cells is. Self-attention and
    feed-forward: the layer's update is added at the region's tokens alone. Cross-attention, whose keys and values come from the text: it is
    computed once for each adapter, and a token takes the answer of its region's. A region still hears the others through self-attention,
    as it hears the whole video. Raises ValueError for unknown names, for regions of unlike shapes or that overlap in a token, and, when the
    model is asked, where its tokens are not as many as the region's.
    """

    def __init__(self, transformer: Any, regions: Mapping[str, Tensor]) -> None:
        refuse_unknown(transformer, list(regions))
        tokens = {name: _tokens(mask, tuple(transformer.config.patch_size)) for name, mask in regions.items()}
        if len({tuple(mask.shape) for mask in regions.values()}) > 1:
            raise ValueError(f"regions have shapes {[tuple(m.shape) for m in regions.values()]}. Give masks (F, H, W) of one latent.")
        if int(torch.stack(list(tokens.values())).sum(0).max()) > 1:
            raise ValueError(f"regions of {list(regions)} overlap in some tokens. Cut them apart: one adapter a token.")
        self.transformer, self._regions_N = transformer, tokens
        self._asked: str | None = None  # the adapter for which a cross-attention is being computed
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(adapters_kept(self.transformer))
        activate(self.transformer, dict.fromkeys(self._regions_N, 1.0))
        crossing = set()
        for path, layer in adapted_layers(self.transformer).items():
            attention, _, _ = path.partition(".attn2.")
            for name in self._regions_N:
                if name in layer.lora_A:
                    # Of DoRA the whole update is one module's answer; of LoRA it is what B gives.
                    update = layer.lora_magnitude_vector[name] if name in layer.lora_magnitude_vector else layer.lora_B[name]
                    in_cross = ".attn2." in path
                    self._hook(update, self._when_asked(name) if in_cross else self._in_region(name))
                    crossing |= {f"{attention}.attn2"} if in_cross else set()
        for path in crossing:
            self._hook(self.transformer.get_submodule(path), self._each_region)
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def _hook(self, module: nn.Module, hook: Any) -> None:
        handle = module.register_forward_hook(hook, with_kwargs=True)
        self._stack.callback(handle.remove)

    def _mask_N1(self, name: str, like: Tensor) -> Tensor:
        region = self._regions_N[name].to(like.device)
        if like.shape[-2] != len(region):
            raise ValueError(
                f"the model has {like.shape[-2]} tokens here, the region of '{name}' {len(region)}. Give masks of the latents' size; "
                "a reference that joins the tokens (reference_net) cannot be composed."
            )
        return region[:, None]

    def _in_region(self, name: str) -> Any:
        return lambda module, args, kwargs, update: torch.where(self._mask_N1(name, update), update, torch.zeros_like(update))

    def _when_asked(self, name: str) -> Any:
        return lambda module, args, kwargs, update: update if self._asked == name else torch.zeros_like(update)

    def _each_region(self, module: nn.Module, args: Any, kwargs: Any, base_BND: Tensor) -> Tensor:
        out = base_BND
        try:
            for name in self._regions_N:
                self._asked = name
                out = torch.where(self._mask_N1(name, out), module.forward(*args, **kwargs), out)
        finally:
            self._asked = None
        return out


def _tokens(mask_FHW: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """bool (N,): the tokens any of whose cells is in the mask, in the transformer's order."""
    if mask_FHW.ndim != 3 or any(size % p for size, p in zip(mask_FHW.shape, patch, strict=True)):
        raise ValueError(f"a region is a mask (F, H, W) of latent cells in whole patches of {patch}; got shape {tuple(mask_FHW.shape)}.")
    return F.max_pool3d(mask_FHW[None].float(), patch)[0].flatten().bool()
