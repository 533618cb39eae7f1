"""The release: a folder one can load, with where it came from and how it was judged. The same inputs give the same bytes.

    reference_adapter.safetensors       resampler and decoupled K/V projections, this project's own keys
    pytorch_lora_weights.safetensors    diffusers' names: pipe.load_lora_weights(folder)
    backbone.safetensors                only where the backbone's own weights were trained: diffusers' names, VACE's blocks or all
    high_noise.* or low_noise.*         of two experts the same files of the one that the last stage did not train
    model_index.json                    base model, rank, alpha, SHA-256 of every other file
    lineage.json  README.md  contact_sheet.png

load_adapter and load_lora read it back and check the hashes; pvtt_model.export.teacher makes it a working model again, lora_formats and
merged write it as other tools read it (`pvtt export`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from pvtt_model.backbones.architectures import pipeline_of
from pvtt_model.evaluation.gate import Verdict
from pvtt_model.evaluation.report import Report
from pvtt_model.export.lora_file import lora_bytes, read_lora, read_tensors, trained_layers
from pvtt_model.export.model_card import model_card
from pvtt_model.specs import LoraSpec
from pvtt_model.training.trained_tensors import ADAPTER, BACKBONE, LORA

INDEX, LINEAGE, CARD, SHEET = "model_index.json", "lineage.json", "README.md", "contact_sheet.png"


def write_release(
    folder: str | Path,
    *,
    adapter: Path | None,
    lora: Path | None,
    backbone: Path | None = None,
    other_expert: Mapping[str, Path] | None = None,
    other_stage: dict[str, Any] | None = None,
    recipe: dict[str, Any],
    stages: list[dict[str, Any]],
    reports: Sequence[Report],
    verdicts: Sequence[Verdict],
    lineage: dict[str, Any],
    contact_sheet: Path | None,
    created: str,
) -> list[Path]:
    """Write the release into `folder` (made where missing) and return its files, model_index.json last.

    adapter, lora, backbone  safetensors of the last stage, None where it has none of the kind; lora already has diffusers' keys
    other_expert, other_stage  of Wan2.2's two experts the files, by name, and the stage of the one that the last stage did not train; they stand
                   beside the last stage's as high_noise.* or low_noise.*
    recipe         RecipeSpec.model_dump(mode='json'): its last stage names the base model, rank and alpha
    stages         one dict a trained stage, `name` and what is worth a line in the card (steps, final_loss, checkpoint, edits, ...)
    reports, verdicts  of the stages in order, matched by stage name
    lineage        any JSON; `data: {clips, products, ...}` is shown in the card where present
    created        UTC, ISO 8601: the only time in the release

    Raises ValueError for keys that are not diffusers' (named), ranks unlike the recipe's, tensors that are not finite, a file that is not
    safetensors, or JSON that is none (NaN). Everything is checked before the first file is written.
    """
    last = recipe["stages"][-1]
    tensors = {} if lora is None else read_tensors(lora)
    layers = trained_layers(tensors, LoraSpec.model_validate(last["lora"])) if tensors else {}
    files: dict[str, bytes] = {LORA: lora_bytes(layers, "diffusers")} if layers else {}
    for name, path in ((ADAPTER, adapter), (BACKBONE, backbone)):
        if path is not None:
            read_tensors(path)
            files[name] = Path(path).read_bytes()
    for name, path in (other_expert or {}).items():
        assert other_stage is not None
        theirs, data = read_tensors(path), Path(path).read_bytes()
        if name == LORA:
            data = lora_bytes(trained_layers(theirs, LoraSpec.model_validate(other_stage["lora"])), "diffusers")
        files[f"{other_stage['backbone']['expert']}_noise.{name}"] = data
    files[LINEAGE] = _json(lineage)
    if contact_sheet is not None:
        files[SHEET] = Path(contact_sheet).read_bytes()
    parameters = sum(t.numel() for t in tensors.values())
    card = model_card(
        recipe=recipe,
        stages=stages,
        reports=reports,
        verdicts=verdicts,
        lineage=lineage,
        created=created,
        lora_parameters=parameters,
        has_sheet=contact_sheet is not None,
    )
    files[CARD] = card.encode()
    files[INDEX] = _json(_index(recipe, stages, files, created, len(layers), parameters))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def load_adapter(folder: str | Path) -> dict[str, torch.Tensor]:
    """The reference adapter's tensors. Raises ValueError where the file is not the one that model_index.json describes."""
    return read_tensors(checked_file(Path(folder), ADAPTER))


def load_lora(folder: str | Path) -> dict[str, torch.Tensor]:
    """The LoRA's tensors, keys checked. Raises ValueError like load_adapter."""
    path = checked_file(Path(folder), LORA)
    read_lora(path)
    return read_tensors(path)


def trained_files(folder: str | Path) -> dict[str, Path]:
    """The release's files of trained tensors, by name, their hashes checked: LoRA, adapter and backbone, those there are."""
    return {name: checked_file(Path(folder), name) for name in (LORA, ADAPTER, BACKBONE) if name in read_index(folder)["files"]}


def other_files(folder: str | Path, expert: str) -> dict[str, Path]:
    """The same of the expert ('high' or 'low') that the last stage did not train; none where it is as published."""
    named = {name: f"{expert}_noise.{name}" for name in (LORA, ADAPTER, BACKBONE)}
    return {name: checked_file(Path(folder), file) for name, file in named.items() if file in read_index(folder)["files"]}


def read_index(folder: str | Path) -> dict[str, Any]:
    """model_index.json of a release. Raises ValueError where the folder is none."""
    path = Path(folder) / INDEX
    index = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "lora" not in index or "files" not in index:
        raise ValueError(f"{folder} is no release of PVTT: it has no {INDEX} that names a LoRA. Give a folder of `pvtt artifacts get`.")
    return dict(index)


def checked_file(folder: Path, name: str) -> Path:
    """A file of a release. Raises ValueError where it is not the one that model_index.json describes."""
    wanted = read_index(folder)["files"].get(name, {}).get("sha256")
    got = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    if wanted != got:
        raise ValueError(f"{folder / name} has SHA-256 {got}; {INDEX} says {wanted}. The file was changed or cut: fetch the release again.")
    return folder / name


def _index(
    recipe: dict[str, Any], stages: list[dict[str, Any]], files: dict[str, bytes], created: str, modules: int, parameters: int
) -> dict[str, Any]:
    last = recipe["stages"][-1]
    return {
        "_class_name": pipeline_of(last["backbone"]["architecture"]),
        "_diffusers_version": diffusers.__version__,
        "kind": "reference adapter and LoRA",
        "recipe": recipe["name"],
        "created": created,
        "base_model": last["backbone"],
        "lora": {**last["lora"], "modules": modules, "parameters": parameters},
        "reference": {
            **last["reference"],
            "image_encoder": recipe["conditions"]["image_encoder"],
            "image_size": recipe["conditions"]["image_size"],
            **({"clip_encoder": recipe["conditions"]["clip_encoder"]} if last["reference"].get("injection") == "dual_path" else {}),
        },
        "stages": [stage["name"] for stage in stages],
        "files": {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in sorted(files.items())},
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
