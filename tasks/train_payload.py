"""What the driver hands to the training workers. Light: the driver imports no torch for it."""

from __future__ import annotations

from typing import NamedTuple

from pvtt_model.artifacts import Planned, StoredFile
from pvtt_model.specs import RecipeSpec
from tasks.edit_work import ClipPlace


class PlaceRef(NamedTuple):
    """Where one clip's latents and conditions lie in the store."""

    clip_key: str
    latents: StoredFile
    conditions: StoredFile
    row: int
    bucket: tuple[int, int]  # width and height of its frames
    selected: bool = False  # one of the best, data.selected_share of what is seen


class TrainPayload(NamedTuple):
    """Small and picklable: references, no tensors."""

    store: str
    planned: Planned
    recipe: RecipeSpec
    stage_index: int
    places: tuple[PlaceRef, ...]
    empty_text: StoredFile
    init: dict[str, StoredFile] | None  # of the stage before its tensors, by the files' names
    init_is_partial: bool
    validation: tuple[PlaceRef, ...] = ()
    samples: tuple[tuple[ClipPlace, ClipPlace], ...] = ()  # of each edit that is shown the template and the clip whose product goes in
    kept_optimizer: tuple[StoredFile, ...] = ()  # of the stage before, a file a rank
