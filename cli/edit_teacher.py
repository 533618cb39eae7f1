"""Which teacher `pvtt edit` uses: a release, a checkpoint of the store, or an untrained one; and the settings that go with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from infra.artifact_store import ArtifactStore
from infra.release_registry import ReleaseRegistry
from pvtt_model.artifacts import Manifest, sha256_of_file
from pvtt_model.overrides import set_by_path
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import BackboneSpec, EditorSpec, LoraSpec, PartnerSpec, ReferenceSpec
from pvtt_model.training.trained_tensors import ADAPTER, BACKBONE, LORA

if TYPE_CHECKING:
    from torch import Tensor

UNTRAINED = "nano-wide"  # the recipe of --untrained where none is named
INDEX = "model_index.json"


class Chosen(NamedTuple):
    """What to load. files: of the trained tensors, by name (training.trained_tensors); None where nothing is trained. trained: what they are, for
    the report."""

    spec: EditorSpec
    files: dict[str, Path] | None
    trained: str
    partner: dict[str, Path] | None = None  # of two experts the other one's files

    def tensors(self) -> dict[str, Tensor] | None:
        return _loaded(self.files)

    def partner_tensors(self) -> dict[str, Tensor] | None:
        return _loaded(self.partner)


def _loaded(files: dict[str, Path] | None) -> dict[str, Tensor] | None:
    from pvtt_model.training.teacher import load_trainable_files

    return load_trainable_files(files) if files else None


def choose_teacher(
    store: ArtifactStore, release: str | None, checkpoint: str | None, recipe: str | None, untrained: bool, project: str | None = None
) -> Chosen:
    """By the options of `pvtt edit`; the project's release in use where none is given. Raises ValueError naming the cure, ArtifactMissing."""
    if sum((bool(release), bool(checkpoint), untrained)) > 1:
        raise ValueError("--release, --checkpoint and --untrained exclude one another. Give one of them.")
    if untrained:
        return Chosen(EditorSpec.of(recipe_by_name(recipe or UNTRAINED)), None, "untrained")
    if checkpoint:
        return _of_checkpoint(store, store.manifest(checkpoint), recipe)
    if release and (Path(release) / INDEX).is_file():
        return _of_folder(Path(release), recipe)
    if release:
        if not release.startswith("releases/"):
            raise ValueError(f"'{release}' is no folder with a {INDEX} and no releases/VERSION of {store.store.uri}. Give one of the two.")
        return _of_release(store, store.manifest(release), recipe)
    found = ReleaseRegistry(store, project).in_use(recipe)
    if found is None:
        of = (f" of recipe '{recipe}'" if recipe else "") + (f" of project '{project}'" if project else "")
        raise ValueError(
            f"there is no release{of} in {store.store.uri}. Make one with `make demo`, name another --store, give --release or --checkpoint, "
            "or --untrained for the base with an untrained adapter."
        )
    return _of_release(store, found, recipe)


def with_overrides(spec: EditorSpec, overrides: Mapping[str, Any]) -> EditorSpec:
    """`spec` with values by dotted path, e.g. latents.video.width or edit.num_steps, checked again. Raises ValueError naming the choices."""
    values = spec.model_dump(mode="json")
    for path, value in overrides.items():
        set_by_path(values, path, value)
    try:
        return EditorSpec.model_validate(values)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"settings with overrides of {sorted(overrides)} are not valid: {lines}") from None


def _of_release(store: ArtifactStore, release: Manifest, recipe: str | None) -> Chosen:
    trained = store.manifest(release.inputs[0])
    return _of_checkpoint(store, trained, recipe, release)


def _of_checkpoint(store: ArtifactStore, trained: Manifest, recipe: str | None, release: Manifest | None = None) -> Chosen:
    """The settings stand in the manifests of the checkpoint, of what it was trained on, and of its edits."""
    specs = {m.kind: m.spec for m in (store.manifest(i) for i in trained.inputs) if m.kind != "checkpoints"}
    values = {part: trained.spec[part] for part in ("backbone", "reference", "lora")}
    values |= {part: specs[part][part] for part in ("latents", "conditions", "masks")}
    values["precision"] = trained.spec["parallel"]["precision"]
    edits = _edits_of(store, trained, release)
    values["edit"] = _edit_settings(edits, trained, recipe)
    partner = _partner_of(store, edits)
    if partner is not None:
        values["partner"] = {part: partner.spec[part] for part in ("backbone", "reference", "lora")}
    elif values["backbone"].get("expert"):
        own = BackboneSpec(**values["backbone"]), ReferenceSpec(**values["reference"]), LoraSpec(**values["lora"])
        values["partner"] = PartnerSpec.published(*own).model_dump(mode="json")
    of = str(release.summary["recipe"]) if release else recipe or "of the store"
    spec = EditorSpec.model_validate({"recipe": of, "stage": str(trained.summary.get("stage", "last")), **values})
    said = release.name if release else trained.name + (f" with {partner.name}" if partner else "")
    return Chosen(spec, _files_of(store, trained), said, None if partner is None else _files_of(store, partner))


def _files_of(store: ArtifactStore, trained: Manifest) -> dict[str, Path]:
    return {file.name: store.local_path(file) for file in trained.files if file.name in (LORA, ADAPTER, BACKBONE)}


def _edits_of(store: ArtifactStore, trained: Manifest, release: Manifest | None) -> list[Manifest]:
    """The edits made with a checkpoint, oldest first; of a release those that it was judged by, as another project may have sampled otherwise."""
    reports = [store.find(name) for name in (release.inputs if release else ()) if name.startswith("reports/")]
    judged = {report.inputs[0] for report in reports if report}
    made = [m for m in store.manifests("edits") if m.inputs and m.inputs[0] == trained.name]
    return [m for m in made if m.name in judged] or made


def _partner_of(store: ArtifactStore, edits: Sequence[Manifest]) -> Manifest | None:
    """Of two experts the other one's checkpoint, with which this one's edits were made; None where that was the published one, or there are none."""
    names = [name for name in (edits[-1].inputs[1:] if edits else []) if name.startswith("checkpoints/")]
    return store.manifest(names[0]) if names else None


def _edit_settings(edits: Sequence[Manifest], trained: Manifest, recipe: str | None) -> dict[str, Any]:
    if recipe is not None:
        return EditorSpec.of(recipe_by_name(recipe)).edit.model_dump(mode="json")
    if not edits:
        raise ValueError(f"no edits were made of {trained.name} yet, so how to sample with it is not recorded. Name its recipe: --recipe nano.")
    return dict(edits[-1].spec["edit"])


def _of_folder(folder: Path, recipe: str | None) -> Chosen:
    """A release's folder names its recipe; what else it says must agree with it."""
    from pvtt_model.export.release import other_files, trained_files

    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    spec = EditorSpec.of(recipe_by_name(recipe or str(index["recipe"])))
    said = {"base_model": index["base_model"]["architecture"], "rank": index["lora"]["rank"], "width": index["reference"]["width"]}
    ours = {"base_model": spec.backbone.architecture, "rank": spec.lora.rank, "width": spec.reference.width}
    if said != ours:
        raise ValueError(f"{folder} is of {said}; recipe '{spec.recipe}' has {ours}. Name the recipe that it was trained by: --recipe.")
    other = other_files(folder, str(spec.partner.backbone.expert)) if spec.partner else None
    return Chosen(spec, trained_files(folder), f"release {sha256_of_file(folder / INDEX)[:20]} of recipe {index['recipe']}", other)
