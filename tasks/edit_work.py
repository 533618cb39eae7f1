"""What one Ray worker does with one edit: make it. No Prefect in here."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from infra.artifact_store import Derived
from pvtt_model.artifacts import StoredFile
from pvtt_model.data.shards import SCHEMAS, read_row, write_shard
from pvtt_model.specs import BackboneSpec, LoraSpec, RecipeSpec, ReferenceSpec, StageSpec
from tasks.shard_work import Row, device, few_threads, model_of, opened, weights_of

PRODUCT = ("clips", "conditions")  # the rows that a product is taken from


class ClipPlace(NamedTuple):
    """Where one clip's four rows lie: same row of the four shards."""

    clip_key: str
    row: int
    clips: StoredFile
    masks: StoredFile
    latents: StoredFile
    conditions: StoredFile


class EditUnit(NamedTuple):
    """One template clip, the clip whose product goes in, and one of a third product where the baseline with a wrong reference is asked for."""

    store: str
    key: str
    recipe: RecipeSpec
    stage_index: int
    template: ClipPlace
    reference: ClipPlace
    wrong: ClipPlace | None
    trained: tuple[StoredFile, ...]  # the files of the checkpoint's tensors
    empty_text: StoredFile
    partner: tuple[StoredFile, ...] = ()  # the same of the backbone's other expert, where an earlier stage trained it


def make_edit(unit: EditUnit) -> Derived:
    """One edits shard of one row, and its mp4s: the edit itself, composited and raw, and side by side with its source."""
    from safetensors.torch import load_file

    from pvtt_model.data.video_io import png_frame, write_mp4
    from pvtt_model.editing.edit import edit_clip
    from pvtt_model.evaluation.groups import groups_of
    from pvtt_model.evaluation.side_by_side import side_by_side

    few_threads()
    store = opened(unit.store)
    found = store.find_derived("edits", unit.key)
    if found is not None:
        return found
    stage, recipe = unit.recipe.stages[unit.stage_index], unit.recipe
    teacher = _teachers(unit, store)
    empty = load_file(store.local_path(unit.empty_text))["text_LD"]
    template = rows_of(store, unit.template)
    product = template if unit.reference == unit.template else rows_of(store, unit.reference, PRODUCT)
    row = edit_clip(
        teacher, model_of("vae", recipe.latents.vae), template, product, empty, stage.edit, recipe.latents, recipe.conditions.max_text_tokens,
        wrong=rows_of(store, unit.wrong, PRODUCT) if unit.wrong else None,
        product_hidden=recipe.conditions.product_words == "hide",
    )  # fmt: skip
    clip = unit.template.clip_key
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shard(folder / "edit.parquet", [row], SCHEMAS["edits"])
        files = [store.pool(folder / "edit.parquet", f"{clip}.parquet", rows=1)]
        if row["usable"]:
            import torch

            for kind in ("composited", "raw"):
                write_mp4(folder / f"{kind}.mp4", torch.stack([png_frame(p) for p in row[kind]]), row["fps"])
                files.append(store.pool(folder / f"{kind}.mp4", f"{clip}-{kind}.mp4"))
            write_mp4(folder / "side.mp4", side_by_side(row), row["fps"])
            files.append(store.pool(folder / "side.mp4", f"{clip}-side-by-side.mp4"))
        groups = groups_of(template["clips"], product["clips"])
        return store.record_derived("edits", unit.key, files, {"usable": row["usable"], "reason": row["reason"], "groups": groups})


def rows_of(store: Any, place: ClipPlace, kinds: tuple[str, ...] = ("clips", "masks", "latents", "conditions")) -> dict[str, Row]:
    rows = {kind: read_row(store.local_path(getattr(place, kind)), place.row) for kind in kinds}
    wrong = {kind: row["clip_key"] for kind, row in rows.items() if row["clip_key"] != place.clip_key}
    if wrong:
        raise ValueError(f"row {place.row} should hold clip {place.clip_key}, but {wrong}. The shards are of different data sets; re-run curation.")
    return rows


def _teachers(unit: EditUnit, store: Any) -> Any:
    """The stage's teacher; of two experts both: the other one by the earlier stage that trained it, else as it was published."""
    from pvtt_model.backbones.architectures import architecture
    from pvtt_model.editing.sample import Experts

    recipe, stage = unit.recipe, unit.recipe.stages[unit.stage_index]

    def of(its: StageSpec, files: tuple[StoredFile, ...]) -> Any:
        clip, trained = recipe.conditions.clip_encoder, tuple((file.name, str(store.local_path(file))) for file in files)
        encoders = (recipe.conditions.image_encoder.architecture, clip.architecture if clip else None)
        return _teacher(its.backbone, its.reference, its.lora, encoders, its.parallel.precision, its.train.trained, trained)

    own, boundary = of(stage, unit.trained), architecture(stage.backbone.architecture, "dit").boundary
    if boundary is None or stage.backbone.expert is None:
        return own
    is_high = stage.backbone.expert == "high"
    published = stage.model_copy(update={"backbone": stage.backbone.model_copy(update={"expert": "low" if is_high else "high"})})
    other = of((unit.partner and recipe.partner_of(stage)) or published, unit.partner)
    return Experts(own, other, boundary) if is_high else Experts(other, own, boundary)


@lru_cache(maxsize=2)  # two experts
def _teacher(
    backbone: BackboneSpec,
    reference: ReferenceSpec,
    lora: LoraSpec,
    encoders: tuple[str, str | None],
    precision: str,
    parts: tuple[str, ...],
    trained: tuple[tuple[str, str], ...],
) -> Any:
    import torch

    from pvtt_model.training.teacher import build_teacher, load_trainable, load_trainable_files

    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    teacher = build_teacher(backbone, reference, lora, encoders[0], weights_of(backbone), dtype, seed=0, trained=parts, clip_encoder=encoders[1])
    if trained:
        load_trainable(teacher, load_trainable_files(dict(trained)), keep_published=True)
    return teacher.to(device())
