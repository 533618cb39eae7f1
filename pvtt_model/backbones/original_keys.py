"""A Wan transformer's key names in diffusers and in the original repositories (github.com/Wan-Video/Wan2.1 and Wan2.2), both ways.

Renames only, one to one: no tensor is changed, and going there and back gives every name again. Of one block, diffusers on the left:

    attn1, attn2 .to_q .to_k .to_v .to_out.0     self_attn, cross_attn .q .k .v .o
    attn2.add_k_proj .add_v_proj .norm_added_k   cross_attn.k_img .v_img .norm_k_img      (Wan2.1's image-to-video)
    norm2 (before cross-attention)               norm3: diffusers counts the norms in the order they are called
    ffn.net.0.proj, ffn.net.2                    ffn.0, ffn.2
    scale_shift_table                            modulation
    proj_in, proj_out (of a VACE block)          before_proj, after_proj
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

#: Of the whole model. diffusers' name -> the original's, each followed by .weight or .bias.
_LAYERS = {
    "patch_embedding": "patch_embedding",
    "vace_patch_embedding": "vace_patch_embedding",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "proj_out": "head.head",
}
_PROJECTIONS = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE = {"add_k_proj": "k_img", "add_v_proj": "v_img", "norm_added_k": "norm_k_img"}
#: Of one block, below blocks.N or vace_blocks.N.
_BLOCK = {
    **{f"attn1.{ours}": f"self_attn.{theirs}" for ours, theirs in _PROJECTIONS.items()},
    **{f"attn2.{ours}": f"cross_attn.{theirs}" for ours, theirs in (_PROJECTIONS | _IMAGE).items()},
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
_VACE_BLOCK = _BLOCK | {"proj_in": "before_proj", "proj_out": "after_proj"}
#: Tensors without .weight or .bias: of the whole model, and of a block.
_TABLE, _BLOCK_TABLE = ("scale_shift_table", "head.modulation"), ("scale_shift_table", "modulation")


def _both_ways() -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """diffusers' -> the original's name: of the whole model, of a main block, of a VACE block."""

    def parameters(layers: Mapping[str, str]) -> dict[str, str]:
        return {f"{ours}.{end}": f"{theirs}.{end}" for ours, theirs in layers.items() for end in ("weight", "bias")}

    block, vace = (parameters(layers) | dict([_BLOCK_TABLE]) for layers in (_BLOCK, _VACE_BLOCK))
    return parameters(_LAYERS) | dict([_TABLE]), block, vace


_TO_ORIGINAL = _both_ways()
_TO_DIFFUSERS = tuple({theirs: ours for ours, theirs in names.items()} for names in _TO_ORIGINAL)
_IN_BLOCK = re.compile(r"((?:vace_)?blocks)\.(\d+)\.(.+)")


def to_original(state: Mapping[str, Value]) -> dict[str, Value]:
    """The state of diffusers' Wan(VACE)Transformer3DModel under the original repository's names. Raises ValueError naming unknown keys."""
    return _renamed(state, _TO_ORIGINAL, "diffusers' Wan transformer")


def to_diffusers(state: Mapping[str, Value]) -> dict[str, Value]:
    """The state of the original WanModel or VaceWanModel under diffusers' names. Raises ValueError naming unknown keys."""
    return _renamed(state, _TO_DIFFUSERS, "the original Wan model")


def is_original(names: Iterable[str]) -> bool:
    """Whether these are the original's names: diffusers has none that begins so."""
    return any(name.startswith(("time_embedding.", "head.head.")) for name in names)


def _renamed(state: Mapping[str, Value], tables: tuple[dict[str, str], ...], what: str) -> dict[str, Value]:
    renamed = {name: _other_name(name, *tables) for name in state}
    unknown = sorted(name for name, other in renamed.items() if other is None)
    if unknown:
        more = f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
        raise ValueError(
            f"not keys of {what}: {', '.join(unknown[:6])}{more}. Strip a prefix of another tool, merge or leave out LoRA layers, and pass the "
            "transformer alone."
        )
    return {str(renamed[name]): value for name, value in state.items()}


def _other_name(name: str, whole: dict[str, str], block: dict[str, str], vace: dict[str, str]) -> str | None:
    found = _IN_BLOCK.fullmatch(name)
    if found is None:
        return whole.get(name)
    other = (vace if found[1] == "vace_blocks" else block).get(found[3])
    return None if other is None else f"{found[1]}.{found[2]}.{other}"
