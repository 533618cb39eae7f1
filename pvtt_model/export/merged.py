"""The whole transformer with a LoRA merged into it, as a folder that loads without any LoRA code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pvtt_model.backbones.source import part_folder, weight_files
from pvtt_model.low_rank.layers import LowRankLayer
from pvtt_model.low_rank.load import refuse_unmatched


def write_merged(
    base: str | Path, layers: Mapping[str, LowRankLayer], out: str | Path, *, original_names: bool = False, dtype: torch.dtype | None = None
) -> list[Path]:
    """Write the base transformer (a diffusers folder, or the pipeline's that holds transformer/) with `layers` merged into it; the files.

    File by file, so memory holds one of them; each weight is updated in float32 and rounded once to its own type, or to `dtype`. The file names
    and config.json are the base's. original_names: keys of the original Wan repository, which ComfyUI and DiffSynth-Studio read as they are;
    config.json, diffusers' own, is then left out. Raises ValueError, before anything is written, where a layer does not match the base, and where
    `out` has files of another model.
    """
    folder, out = part_folder(Path(base), "dit"), Path(out)
    files = weight_files(folder)
    refuse_unmatched(_shapes(files), layers)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty. Give a folder that is new: files of two models must not mix.")
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        tensors = _merged(file, layers, dtype)
        save_file(_named(tensors) if original_names else tensors, out / file.name, metadata={"format": "pt"})
    written = [out / file.name for file in files]
    for index in folder.glob("*.safetensors.index.json") if folder.is_dir() else ():
        (out / index.name).write_text(_index(json.loads(index.read_text()), written))
        written.append(out / index.name)
    config = folder / "config.json"
    if config.is_file() and not original_names:
        written.append(Path(shutil.copyfile(config, out / "config.json")))
    return written


def _merged(file: Path, layers: Mapping[str, LowRankLayer], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    tensors = {}
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
            tensor = opened.get_tensor(name)
            kept = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            layer = layers.get(name.removesuffix(".weight"))
            tensors[name] = (tensor if layer is None else layer.updated(tensor if dtype is None else tensor.to(torch.float32))).to(kept)
    return tensors


def _named(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from pvtt_model.backbones.original_keys import to_original

    return to_original(tensors)


def _shapes(files: list[Path]) -> dict[str, tuple[int, int]]:
    """(out, in) of every matrix by module."""
    shapes = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                shape = opened.get_slice(name).get_shape()
                if len(shape) == 2 and name.endswith(".weight"):
                    shapes[name.removesuffix(".weight")] = (shape[0], shape[1])
    return shapes


def _index(index: dict[str, object], files: list[Path]) -> str:
    """The index of sharded weights with the names and bytes that the written files have."""
    weight_map, total = {}, 0
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    weight_map[name] = file.name
                    total += opened.get_tensor(name).nbytes
    return json.dumps({**index, "metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}, indent=2)
