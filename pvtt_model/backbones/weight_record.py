"""What a frozen model was loaded from, recorded beside all that it made: SHA-256 of every file that decides it.

A local path names no content: two machines may have other weights at it, and half of a data set be encoded by either. So each unit of work
records what its own process loaded, and an artifact is made only of units that agree. Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.architectures import Family, architecture
from pvtt_model.specs import ModelSpec

#: {"architecture", "weights", "revision": as in the spec, "files": name -> SHA-256; none of a model made from a seed}
WeightRecord = dict[str, Any]
ENCODERS = "encoders"  # the summary's field: what the encoder is for -> its WeightRecord

ENCODER_COLUMNS = ("encoder", "model", "weights", "revision", "files")  # of encoder_rows

#: Read beside the weights, and deciding what comes out: the VAE's statistics, the text's tokens.
_BESIDE: dict[Family, tuple[str, ...]] = {
    "vae": ("config.json",),
    "text": ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model"),
}


def weight_record(spec: ModelSpec, folder: Path | None) -> WeightRecord:
    """The record of a model just loaded from `folder` (None: from its seed). A file that spec.sha256 names was hashed by the loader."""
    record = {"architecture": spec.architecture, "weights": spec.weights, "revision": spec.revision}
    if folder is None:
        return record | {"files": {}}
    weights, beside = _files(spec, Path(folder))
    hashes = {_name(f, folder): spec.sha256.lower() if spec.sha256 else sha256_of_file(f) for f in weights}
    return record | {"files": hashes | {_name(f, folder): sha256_of_file(f) for f in beside}}


def _files(spec: ModelSpec, folder: Path) -> tuple[list[Path], list[Path]]:
    """The weight files that the loader reads, and what it reads beside them."""
    from pvtt_model.backbones.source import part_folder, weight_files

    family = architecture(spec.architecture).family
    part = part_folder(folder, family)
    if family == "sam2":
        from pvtt_model.backbones.sam2 import checkpoint_file

        return [checkpoint_file(part)], []
    if family in ("video", "perceptual", "inception"):  # published as exported code or a pickle, which their loaders read by hash
        found = [part] if part.is_file() else sorted(part.glob("*.safetensors")) or sorted([*part.glob("*.pt"), *part.glob("*.pth")])
        return found, []
    places = [part, folder / "tokenizer"] if family == "text" else [part]
    return weight_files(part), [place / name for place in places for name in _BESIDE.get(family, ()) if (place / name).is_file()]


def _name(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file != folder else file.name


def agreed(units: Sequence[Mapping[str, Any]], what: str) -> dict[str, WeightRecord]:
    """The encoders of all units' summaries, each the same in every unit that used it.

    Raises ValueError where two units were made with other files of the same name: they cannot stand in one artifact.
    """
    found: dict[str, tuple[int, WeightRecord]] = {}
    for number, unit in enumerate(units):
        for name, record in unit.get(ENCODERS, {}).items():
            first, seen = found.setdefault(name, (number, record))
            if record != seen:
                differ = sorted(f for f in {*seen["files"], *record["files"]} if seen["files"].get(f) != record["files"].get(f))
                files = ", ".join(_against(f, seen, record) for f in differ) or "another spec"
                raise ValueError(
                    f"{what}: units {first} and {number} were made with different weights of '{name}' ({record['architecture']}, "
                    f"{record['weights']}): {files}. Put the same files on every node, and name them in the recipe by sha256 (of a single "
                    "file) or by another revision: the units are then made anew."
                )
    return {name: record for name, (_, record) in found.items()}


def _against(file: str, one: WeightRecord, other: WeightRecord) -> str:
    a, b = ((record["files"].get(file) or "absent")[:12] for record in (one, other))
    return f"{file} {a} against {b}"


def encoder_rows(encoders: Mapping[str, WeightRecord]) -> list[dict[str, str]]:
    """A row an encoder for a table: encoder, model, weights, revision, files with their SHA-256; of a random model that it has none."""
    return [
        {
            "encoder": name,
            "model": record["architecture"],
            "weights": record["weights"],
            "revision": record["revision"] or "",
            "files": ", ".join(f"{file} {sha256}" for file, sha256 in record["files"].items()) or "none: made from its seed",
        }
        for name, record in encoders.items()
    ]
