"""What one Ray worker does to score one edit. No Prefect in here."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from infra.artifact_store import Derived
from infra.store import ObjectMissing
from pvtt_model.artifacts import StoredFile
from pvtt_model.backbones.architectures import Family
from pvtt_model.data.shards import read_row
from pvtt_model.specs import EvalSpec, ModelSpec, RecipeSpec
from tasks.shard_work import Row, few_threads, model_of, opened


class ScoreUnit(NamedTuple):
    store: str
    key: str
    recipe: RecipeSpec
    stage_index: int
    edit: StoredFile
    said: Row  # what the edits' table says of it: clip_key, reference_key
    gallery: StoredFile | None  # the products among which the stage's judge has to find the right one; None without a judge


def score_one(unit: ScoreUnit) -> Derived:
    """All metrics of one edit, in the record's summary; what FVD and FID want of it, where asked for, in a file of the record.

    An edit whose row the store has lost is missing: it is said so, and not recorded, so that it is scored once it is there again.
    """
    from pvtt_model.evaluation.score import score_row

    few_threads()
    store = opened(unit.store)
    found = store.find_derived("reports", unit.key)
    if found is not None:
        return found
    spec = unit.recipe.stages[unit.stage_index].evaluate
    try:
        row = read_row(store.local_path(unit.edit), 0)
    except ObjectMissing as error:
        return missing(unit, str(error.args[0]))
    judge = _remembering("image", spec.judge) if spec.judge else None
    gallery = _gallery(str(store.local_path(unit.gallery)), spec.judge) if spec.judge and unit.gallery else None
    features: dict[str, Any] = {}
    seeing = _remembering("clip", spec.clip), _remembering("image", spec.dino), judge, gallery, networks_of(spec), features
    scores = score_row(row, spec, *seeing)
    return store.record_derived("reports", unit.key, _pooled(store, features), scores.model_dump(mode="json"))


def missing(unit: ScoreUnit, reason: str) -> Derived:
    """What stands in the report for an edit that the store has lost."""
    from pvtt_model.evaluation.edit_scores import EditScores

    lost = EditScores(clip_key=unit.said["clip_key"], reference_key=unit.said["reference_key"], status="missing", reason=reason)
    return Derived(kind="reports", key=unit.key, files=(), summary=lost.model_dump(mode="json"), created="", commit_id="")


def networks_of(spec: EvalSpec) -> Any:
    """The networks beside CLIP and DINO that the stage asks for."""
    from pvtt_model.evaluation.score_more import Networks

    asked: tuple[tuple[Family, ModelSpec | None], ...] = (
        ("flow", spec.flow), ("perceptual", spec.lpips), ("video", spec.fvd), ("inception", spec.fid),
    )  # fmt: skip
    return Networks(*(model_of(family, model) if model else None for family, model in asked))


def _pooled(store: Any, features: dict[str, Any]) -> list[StoredFile]:
    from safetensors.torch import save_file

    if not features:
        return []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "features.safetensors"
        save_file(features, path)
        return [store.pool(path, path.name)]


@lru_cache(maxsize=1)
def _gallery(path: str, judge: ModelSpec) -> Any:
    from pvtt_model.evaluation.gallery import read_gallery

    return read_gallery(path, model_of("image", judge))


@lru_cache(maxsize=3)  # clip, dino, judge
def _remembering(family: Family, spec: ModelSpec) -> Any:
    """The encoder, which knows again what it has seen: references and sources that edits share, a video that several metrics look at."""
    from pvtt_model.evaluation.remembered import Remembered

    return Remembered(model_of(family, spec))
