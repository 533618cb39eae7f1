"""Sample edits inside a training worker: rows from the store, pictures into it. No Prefect in here."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from torch import Tensor

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import StoredFile
from pvtt_model.specs import StageSpec
from pvtt_model.training.sample_edits import SampleEdits, strip_png
from pvtt_model.training.teacher import Teacher
from tasks.edit_work import PRODUCT, rows_of
from tasks.shard_work import model_of
from tasks.train_hooks import Show
from tasks.train_payload import TrainPayload


def shown_samples(payload: TrainPayload, store: ArtifactStore, stage: StageSpec, empty_text_LD: Tensor, rank: int) -> Show | None:
    """What makes this rank's sample edits and stores their pictures; rows and VAE are loaded at the first.

    Rank 0 makes them, and where the weights are cut (ZeRO-3, FSDP2) every rank makes the same with it: a layer is whole while all are in it.
    """
    if not payload.samples or (rank and stage.parallel.sharding < 3):
        return None
    recipe = payload.recipe

    @cache
    def edits() -> SampleEdits:
        clips = [(rows_of(store, template), rows_of(store, product, PRODUCT)) for template, product in payload.samples]
        conditions = recipe.conditions
        hidden = conditions.product_words == "hide"
        return SampleEdits(clips, model_of("vae", recipe.latents.vae), empty_text_LD, recipe.latents, conditions.max_text_tokens, hidden)

    def show(step: int, teacher: Teacher) -> list[StoredFile]:
        rows = edits().make(teacher, stage)
        if rank:
            return []
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for i, row in enumerate(rows):
                if row["usable"]:
                    path = Path(folder) / f"{step:06d}-{i}.png"
                    path.write_bytes(strip_png(row))
                    files.append(store.attach(payload.planned, f"samples/{path.name}", path))
            return files

    return show
