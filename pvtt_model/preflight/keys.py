"""Names and shapes that an architecture wants of its weights, from the meta device, against those in the files' headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.dit import build_on_meta
from pvtt_model.backbones.original_keys import is_original, to_diffusers
from pvtt_model.preflight.check import Check, some
from pvtt_model.preflight.safetensors_header import Shape

#: Of UMT5's two names for one tensor a file need hold one.
TIED = ("shared.weight", "encoder.embed_tokens.weight")
#: Whose files may be exported code or pickles, and which their loaders check by hash and by name.
LOADER_CHECKS = ("sam2", "video", "perceptual", "inception")
#: How the original repositories (Wan-Video/Wan2.1, ali-vilab/VACE) and what wraps them call what diffusers calls otherwise: the names that
#: diffusers' own converters start from (diffusers.loaders.single_file_utils, convert_wan_*_to_diffusers).
ORIGINAL = {
    "dit": re.compile(r"(model\.diffusion_model\.|diffusion_model\.|model\.)?(vace_)?blocks\.\d+\.(self_attn|cross_attn)\.[qkvo]\."),
    "vae": re.compile(r"(encoder|decoder)\.(middle|downsamples|upsamples|head)\.\d+\."),
    "text": re.compile(r"(token_embedding\.weight|blocks\.\d+\.attn\.[qkvo]\.weight)"),
}


@lru_cache(maxsize=32)
def expected_shapes(name: str) -> dict[str, Shape]:
    """Every tensor of the architecture's state. Raises ValueError for those that cannot stand on the meta device (SAM 2, exported code)."""
    return {key: tuple(tensor.shape) for key, tensor in _model(name).state_dict().items()}


@lru_cache(maxsize=4)
def _model(name: str) -> Any:
    return build_on_meta(name)


def as_loaded(name: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The file's names as the architecture's loader changes them before it compares: the original Wan's renamed, timm's own filter, a ConvNet's
    head left out. Raises ValueError for names of neither."""
    arch, found = architecture(name), dict(shapes)
    if arch.family == "dit":
        unread = _model(name)._keys_to_ignore_on_load_unexpected or ()
        found = to_diffusers(found) if is_original(found) else found
        return {key: shape for key, shape in found.items() if not any(part in key for part in unread)}
    if arch.family == "image" and "convnet" in arch.config:
        head = f"{_model(name).pretrained_cfg['classifier']}."
        return {key: shape for key, shape in found.items() if not key.startswith(head)}
    if arch.family == "image":
        from timm.models.vision_transformer import checkpoint_filter_fn

        tensors = {key: torch.empty(shape, device="meta") for key, shape in found.items()}
        return {key: tuple(tensor.shape) for key, tensor in checkpoint_filter_fn(tensors, _model(name)).items()}
    if arch.family == "text" and sum(key in found for key in TIED) == 1:
        (there,) = (key for key in TIED if key in found)
        found |= dict.fromkeys(TIED, found[there])
    return found


def keys_check(check: str, name: str, shapes: Mapping[str, Shape]) -> Check:
    """Whether the files hold just the tensors that architecture `name` wants; what is missing, unexpected or of another shape by name."""
    what = f"the tensors of architecture '{name}'"
    if architecture(name).family in LOADER_CHECKS:
        return Check(check, "skipped", what, "known only once it is loaded: its loader refuses what does not fit")
    try:
        wanted, has = expected_shapes(name), as_loaded(name, shapes)
    except ValueError as error:
        return Check(check, "fail", what, str(error), "Fetch the published files, or convert the names.")
    missing, unexpected = sorted(wanted.keys() - has.keys()), sorted(has.keys() - wanted.keys())
    other = [f"{key} {list(has[key])} for {list(wanted[key])}" for key in sorted(wanted.keys() & has.keys()) if wanted[key] != has[key]]
    if not (missing or unexpected or other):
        by = ", under the original repository's names" if original_names(name, shapes) else ""
        return Check(check, "ok", what, f"all {len(wanted)} by name and shape{by}")
    got = "; ".join(
        f"{len(names)} {kind} ({some(names, 3)})"
        for kind, names in (("missing", missing), ("not wanted", unexpected), ("of another shape", other))
        if names
    )
    original = original_names(name, shapes)
    if original:
        got = f"the original repository's names ({some(original, 2)}), not diffusers': {got}"
        return Check(check, "fail", what, got, "Use the model's diffusers folder (its hub id ends in -diffusers), or convert the names.")
    return Check(check, "fail", what, got, "Set `architecture` to the one that the weights are of, or fetch the files again.")


def original_names(name: str, shapes: Mapping[str, Shape]) -> list[str]:
    """The names among `shapes` that only the original repository's checkpoint of such a model has."""
    pattern = ORIGINAL.get(architecture(name).family)
    wanted = expected_shapes(name)
    return [key for key in shapes if key not in wanted and pattern is not None and pattern.match(key)]
