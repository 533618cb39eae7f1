"""Where a frozen model's weights come from: a seed, or a local folder of safetensors. Shared by the loaders of this room.

Real weights are read from safetensors only: a pickle can run code. What is missing or unexpected is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.architectures import DIT_FOLDERS, Architecture, Expert, Family, architecture
from pvtt_model.specs import ModelSpec

#: The folder a part has in a diffusers checkpoint; a backbone's is in DIT_FOLDERS.
SUBFOLDERS: dict[Family, str] = {"vae": "vae", "text": "text_encoder"}
#: What diffusers, open_clip and transformers or timm call a weight file. LAION's folders hold transformers' beside open_clip's, which is read.
WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "open_clip_model.safetensors", "model.safetensors")


def seed_of(spec: ModelSpec) -> int | None:
    """N of weights 'seed:N', else None. Raises ValueError for a seed that is no number, or for an architecture too big to be random."""
    if not spec.weights.startswith("seed:"):
        return None
    number = spec.weights.removeprefix("seed:")
    if not number.isdigit():
        raise ValueError(f"weights '{spec.weights}': the seed must be a whole number. Use e.g. 'seed:0'.")
    if not architecture(spec.architecture).nano:
        raise ValueError(
            f"architecture '{spec.architecture}' has weights '{spec.weights}': only nano architectures are made from a seed. "
            "Set `weights` to a local folder, s3://bucket/prefix, or hf://owner/name with a revision; or use a nano architecture."
        )
    return int(number)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's CPU generator starts from `seed`; outside, it is as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        yield


def architecture_of(spec: ModelSpec, family: Family, folder: Path | None) -> tuple[Architecture, int | None]:
    """The architecture and the seed (None for real weights). Raises ValueError where spec and folder disagree about which it is."""
    arch, seed = architecture(spec.architecture, family), seed_of(spec)
    if seed is None and folder is None:
        raise ValueError(f"weights '{spec.weights}' of '{spec.architecture}' are not here: no folder was given. Fetch them first (infra.weights).")
    if seed is not None and folder is not None:
        raise ValueError(
            f"weights '{spec.weights}' are made from a seed, yet a folder {folder} was given. Set `weights` to the folder, or give none."
        )
    return arch, seed


def part_folder(folder: Path, family: Family, expert: Expert | None = None) -> Path:
    """The part's subfolder of a checkpoint (vae/, text_encoder/; of a backbone see DIT_FOLDERS), or the folder itself.

    Raises FileNotFoundError where it does not exist, or holds the other expert alone.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"weights folder {folder} does not exist. Set `weights` to the folder that holds the safetensors.")
    names = DIT_FOLDERS[expert] if family == "dit" else (SUBFOLDERS[family],) if family in SUBFOLDERS else ()
    found = next((folder / name for name in names if (folder / name).is_dir()), None)
    if found is None and expert is not None:
        other = [n for n in {*DIT_FOLDERS["high"], *DIT_FOLDERS["low"]} if (folder / n).is_dir()]
        if other:
            raise FileNotFoundError(
                f"{folder} has {sorted(other)}, but none of {list(names)}, where the {expert} expert lies. Fetch it too, or set `weights` to its "
                "own folder."
            )
    return found or folder


def weight_files(folder: Path, sha256: str | None = None) -> list[Path]:
    """The .safetensors of `folder` that are loaded (or `folder` itself, a file), sorted; never a pickle.

    Where an index names the parts, or a file has its library's own name, those alone: other precisions, or another library's copy, may lie
    beside them and are not read. sha256: of the single weight file, checked here. Raises FileNotFoundError where there is none, ValueError
    for a wrong or ambiguous hash.
    """
    folder = Path(folder)
    files = [folder] if folder.is_file() and folder.suffix == ".safetensors" else _by_name(folder)
    if not files:
        pickles = [folder.name] if folder.is_file() else sorted(p.name for s in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(s))
        cure = f"It holds {pickles}, which are pickles and are not read: convert them to safetensors." if pickles else "Check `weights`."
        raise FileNotFoundError(f"no .safetensors in {folder}. {cure}")
    if sha256 is not None:
        if len(files) > 1:
            raise ValueError(f"`sha256` is of a single weight file, but {folder} holds {len(files)}. Leave `sha256` out and pin `revision` instead.")
        got = sha256_of_file(files[0])
        if got != sha256.lower():
            raise ValueError(f"{files[0]} has SHA-256 {got}; the spec says {sha256}. Fetch the file again, or correct `sha256`.")
    return files


def _by_name(folder: Path) -> list[Path]:
    for name in WEIGHT_NAMES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = set(json.loads(index.read_text())["weight_map"].values())
            if any(Path(part).name != part for part in parts):
                raise ValueError(f"{index} names files in other folders: {_some(sorted(parts))}. Put the parts beside their index.")
            return [folder / part for part in sorted(parts)]
        if (folder / name).is_file():
            return [folder / name]
    return sorted(folder.glob("*.safetensors"))


def load_strictly(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: Path, *, assign: bool = False) -> None:
    """Fill `model` from `state`, every key and shape; assign: with these tensors themselves, for a model on the meta device.

    Raises ValueError naming what is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    refuse_mismatch(own.keys() - state.keys(), state.keys() - own.keys(), where)
    wrong = [f"{k}: {tuple(state[k].shape)} against {tuple(own[k].shape)}" for k in own if own[k].shape != state[k].shape]
    if wrong:
        raise ValueError(f"weights in {where} have other shapes than the architecture: {_some(wrong)}. Set `architecture` to the one they are of.")
    model.load_state_dict(dict(state), strict=True, assign=assign)


def read_safetensors(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """Every tensor of the files, on the CPU."""
    state: dict[str, torch.Tensor] = {}
    for file in files:
        state.update(load_file(file))
    return state


def refuse_mismatch(missing: Iterable[str], unexpected: Iterable[str], where: Path) -> None:
    """Raises ValueError naming keys that the model wants and the weights lack, and the other way round."""
    missing, unexpected = sorted(missing), sorted(unexpected)
    if missing or unexpected:
        raise ValueError(
            f"weights in {where} do not fit: missing {_some(missing)}; unexpected {_some(unexpected)}. Set `architecture` to the one they are of."
        )


def refuse_other_config(config: Mapping[str, Any], wanted: Mapping[str, Any], where: Path, name: str) -> None:
    """Raises ValueError where the folder's config.json contradicts the named architecture."""
    wrong = [f"{k} is {config.get(k)!r}, not {v!r}" for k, v in wanted.items() if _plain(config.get(k)) != _plain(v)]
    if wrong:
        raise ValueError(f"{where} is not of architecture '{name}': {_some(wrong)}. Set `architecture` or `weights` to the other.")


def frozen(model: Any) -> Any:
    """The model in eval mode, no parameter wanting a gradient."""
    return model.requires_grad_(False).eval()


def label(spec: ModelSpec) -> str:
    """The name a number carries: the architecture, and for a stand-in that its weights are random."""
    seed = seed_of(spec)
    return spec.architecture if seed is None else f"{spec.architecture} (random weights, seed {seed})"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"[{', '.join(names[:most])}]{more}"
