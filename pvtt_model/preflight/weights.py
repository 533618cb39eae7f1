"""A frozen model's files on this machine: there, whole, of the right hash and names. No tensor is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.source import part_folder, weight_files
from pvtt_model.preflight.check import Check, some
from pvtt_model.preflight.keys import LOADER_CHECKS, keys_check
from pvtt_model.preflight.safetensors_header import Shape, read_header
from pvtt_model.specs import BackboneSpec, ModelSpec, RecipeSpec, StageSpec


def models_of(recipe: RecipeSpec) -> Iterator[tuple[str, ModelSpec]]:
    """Every frozen model of the recipe with the dotted path of its setting, those of all stages too."""
    yield "latents.vae", recipe.latents.vae
    yield "conditions.text_encoder", recipe.conditions.text_encoder
    yield "conditions.image_encoder", recipe.conditions.image_encoder
    for path, spec in (
        ("conditions.clip_encoder", recipe.conditions.clip_encoder),
        ("masks.image_encoder", recipe.masks.image_encoder),
        ("masks.sam2", recipe.masks.sam2),
    ):
        if spec is not None:
            yield path, spec
    for stage in recipe.stages:
        yield from models_of_stage(stage)


def settings_by_model(recipe: RecipeSpec) -> dict[ModelSpec, list[str]]:
    """The settings that name each model, those that all stages share as 'stages.*...'."""
    found: dict[ModelSpec, list[str]] = {}
    for path, spec in models_of(recipe):
        found.setdefault(spec, []).append(path)
    return {spec: _shared(paths, [f"stages.{stage.name}." for stage in recipe.stages]) for spec, paths in found.items()}


def _shared(paths: list[str], stages: list[str]) -> list[str]:
    for path in [p for p in paths if p.startswith(stages[0])]:
        last = path.removeprefix(stages[0])
        each = [f"{stage}{last}" for stage in stages]
        if len(stages) > 1 and all(p in paths for p in each):
            paths = [f"stages.*.{last}" if p == path else p for p in paths if p == path or p not in each]
    return paths


def models_of_stage(stage: StageSpec) -> Iterator[tuple[str, ModelSpec]]:
    at = f"stages.{stage.name}"
    yield f"{at}.backbone", stage.backbone
    yield from ((f"{at}.evaluate.{name}", model) for name, model in stage.evaluate.models().items())


def files_checks(check: str, spec: ModelSpec, folder: Path, *, with_hash: bool) -> list[Check]:
    """Of the weights of `spec` in `folder`: the files are there, whole by their headers, of the spec's SHA-256 (where it is given and with_hash),
    and hold just the tensors that the architecture wants. What fails first is the last line."""
    what = f"weights of '{spec.architecture}' in {folder}"
    try:
        if architecture(spec.architecture).family in LOADER_CHECKS:
            return [_exported(check, what, folder, spec.sha256 if with_hash else None)]
        expert = spec.expert if isinstance(spec, BackboneSpec) else None
        part = part_folder(folder, architecture(spec.architecture).family, expert)
        files = weight_files(part, spec.sha256 if with_hash else None)
    except (ValueError, OSError) as error:
        return [Check(check, "fail", what, str(error), "Fetch the files again, or correct `weights` and `sha256`.")]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        return [Check(check, "fail", what, f"the index names {len(absent)} files that are not there: {some(absent)}", "Fetch them.")]
    shapes: dict[str, Shape] = {}
    broken = []
    for file in files:
        try:
            shapes |= read_header(file).shapes
        except (ValueError, OSError) as error:
            broken.append(str(error))
    if broken:
        return [Check(check, "fail", what, some(broken, 2), "Delete the file and fetch it again.")]
    hashed = (
        "SHA-256 as the spec has it" if spec.sha256 and with_hash else "no SHA-256 in the spec" if not spec.sha256 else "SHA-256 not looked at here"
    )
    found = f"{len(files)} file{'s' * (len(files) != 1)}, {sum(f.stat().st_size for f in files) / 1e6:,.1f} MB, whole; {hashed}"
    return [Check(check, "ok", what, found), keys_check(f"{check} keys", spec.architecture, shapes)]


def _exported(check: str, what: str, folder: Path, sha256: str | None) -> Check:
    files = [folder] if folder.is_file() else sorted(f for end in ("*.pt", "*.pth", "*.safetensors") for f in folder.glob(end))
    if not files:
        return Check(check, "fail", what, "no .pt, .pth or .safetensors", "Correct `weights`.")
    if sha256 is None:
        return Check(check, "ok", what, f"{some([f.name for f in files])}; hash and names are checked by its loader")
    found = [sha256_of_file(file) for file in files]
    if sha256 not in found:
        return Check(check, "fail", f"{what}, SHA-256 {sha256}", some(found), "Fetch the file again, or correct `weights` and `sha256`.")
    return Check(check, "ok", what, f"{some([f.name for f in files])}; SHA-256 as the spec has it; names are checked by its loader")
