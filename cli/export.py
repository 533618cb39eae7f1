"""`pvtt export`: a release, or any LoRA file of a Wan model, as another tool reads it."""

from __future__ import annotations

import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.settings import settings


class Format(StrEnum):
    comfyui = "comfyui"
    diffsynth = "diffsynth"
    original = "original"
    diffusers = "diffusers"
    merged = "merged"


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    source: Annotated[str, typer.Argument(help="a release folder, releases/VERSION in the store, or a LoRA .safetensors in any of the formats")],
    format: Annotated[Format, typer.Option("--format", help="whose key names; merged: the whole transformer with the LoRA in it")],
    out: Annotated[Path, typer.Option("--out", help="the file to write (merged: a new folder); nothing is written over")],
    base: Annotated[Path | None, typer.Option(help="merged: the base's diffusers folder; a release's own is found where this is left out")] = None,
    original_names: Annotated[bool, typer.Option("--original-names", help="merged: the original repository's keys, as ComfyUI reads")] = False,
    dtype: Annotated[Dtype | None, typer.Option(help="merged: of the written weights; the base's own where left out")] = None,
    store: Annotated[str, typer.Option("--store", envvar="PVTT_STORE", help="a path or s3://bucket/prefix, for releases/VERSION")] = "",
) -> None:
    """Write a LoRA under another tool's names, bit for bit, or merge it into its base. The reference adapter stays PVTT's own (see the card)."""
    from infra.artifact_store import ArtifactMissing
    from infra.store import ObjectMissing, StoreRefused
    from infra.weights import WeightsUnavailable

    try:
        with tempfile.TemporaryDirectory() as scratch:
            place = _localised(source, store, Path(scratch))
            if format is Format.merged:
                _merge(place, out, base, original_names, dtype)
            else:
                if base or original_names or dtype:
                    raise ValueError("--base, --original-names and --dtype are of --format merged alone. Leave them out.")
                _convert(place, format.value, out)
    except (ArtifactMissing, ObjectMissing, StoreRefused, WeightsUnavailable, ValueError, OSError) as error:
        typer.echo(f"error: {error.args[0] if isinstance(error, KeyError) else error}", err=True)
        sys.exit(1)


def _localised(source: str, store: str, scratch: Path) -> Path:
    """The release folder or file on this machine; of a store's release, a copy in `scratch`."""
    if not source.startswith("releases/") or Path(source).exists():
        if not Path(source).exists():
            raise ValueError(f"{source} is not here. Give a release folder, a LoRA file, or releases/VERSION (pvtt artifacts ls releases).")
        return Path(source)
    from cli.artifacts import resolve_name
    from infra.artifact_store import ArtifactStore

    artifacts = ArtifactStore.open(settings(store or None).store)
    for file in artifacts.manifest(resolve_name(artifacts, source)).files:
        (scratch / file.name).symlink_to(Path(artifacts.local_path(file)).resolve())
    return scratch


def _layers(place: Path) -> tuple[str, Any]:
    from pvtt_model.export.lora_file import read_lora
    from pvtt_model.export.release import LORA, load_lora

    if place.is_dir():
        load_lora(place)  # checks the hash
    return read_lora(place / LORA if place.is_dir() else place)


def _convert(place: Path, format: Any, out: Path) -> None:
    from pvtt_model.export.lora_file import lora_bytes

    was, layers = _layers(place)
    data = lora_bytes(layers, format)
    if out.is_dir():
        raise ValueError(f"{out} is a folder. Give the file to write, e.g. {out / 'lora.safetensors'}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("xb") as file:
        file.write(data)
    ranks = sorted({layer.rank for layer in layers.values()})
    typer.echo(f"{out}: {len(layers)} layers, rank {', '.join(map(str, ranks))}, {len(data):,} bytes; {was} -> {format}")


def _merge(place: Path, out: Path, base: Path | None, original_names: bool, dtype: Dtype | None) -> None:
    import torch

    from pvtt_model.export.merged import write_merged

    _, layers = _layers(place)
    files = write_merged(base or _base(place), layers, out, original_names=original_names, dtype=getattr(torch, dtype.value) if dtype else None)
    typer.echo(f"{out}: {len(layers)} layers merged; {', '.join(f'{f.name} {f.stat().st_size:,} bytes' for f in files)}")


def _base(place: Path) -> Path:
    """Where a release's own base lies, fetched where need be."""
    from infra.weights import local_weights
    from pvtt_model.backbones.architectures import files_wanted
    from pvtt_model.export.release import read_index
    from pvtt_model.nano.shipped import shipped_folder
    from pvtt_model.specs import BackboneSpec

    if not place.is_dir():
        raise ValueError("a LoRA file names no base. Give --base, the diffusers folder of the model that it was trained on.")
    spec = BackboneSpec(**read_index(place)["base_model"])
    if spec.weights.startswith("nano:"):
        return shipped_folder(spec.weights)
    folder = local_weights(spec, settings().cache / "weights", files_wanted(spec.architecture))
    if folder is None:
        raise ValueError(f"the release's base is random ('{spec.weights}') and lies in no folder. Save it (save_pretrained) and give --base.")
    return folder
