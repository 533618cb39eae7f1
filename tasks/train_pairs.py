"""Which clips a stage trains on, is validated on, and shows edits of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from prefect import get_run_logger

from pvtt_model.specs import DataSpec, StageSpec, VideoSpec
from tasks.edit_pairs import choose_pairs
from tasks.edit_work import ClipPlace
from tasks.train_payload import PlaceRef


def select_pairs(places: dict[str, tuple[Any, dict[str, Any]]], data: DataSpec, stage_name: str, new: Collection[str] = ()) -> list[Any]:
    """The training clips' places in a stable order, at most max_pairs of them, those of the keys `new` first. Raises ValueError for fewer than
    min_pairs."""
    train = [(place, fact) for place, fact in places.values() if not fact["held_out"]]
    if len(train) < data.min_pairs:
        raise ValueError(
            f"stage '{stage_name}' wants at least {data.min_pairs} training pairs; {len(train)} of {len(places)} usable clips are not held out. "
            f"Add clips, or set stages.{stage_name}.data.min_pairs={len(train)}."
        )
    best = data.select == "best"
    train.sort(key=lambda pf: (pf[0].clip_key not in new, -pf[1]["quality"] if best else 0.0, pf[0].clip_key))
    return [place for place, _ in train[: data.max_pairs]]


def selected_keys(chosen: dict[str, dict[str, Any]], data: DataSpec) -> set[str]:
    """Of the chosen clips (key -> fact) the best data.selected_pairs by the masks' quality score; none where nothing is selected."""
    best = sorted(chosen, key=lambda key: (-chosen[key]["quality"], key))
    return set(best[: data.selected_pairs or 0])


def place_ref(place: ClipPlace, fact: dict[str, Any], video: VideoSpec, selected: bool = False) -> PlaceRef:
    """What a training worker is told of a clip; its bucket by the source's size, as when it was encoded."""
    return PlaceRef(place.clip_key, place.latents, place.conditions, place.row, video.bucket_of(fact["width"], fact["height"]), selected)


def validation_clips(usable: dict[str, tuple[ClipPlace, dict[str, Any]]], stage: StageSpec) -> list[tuple[ClipPlace, dict[str, Any]]]:
    """The first clips of the validation split, by key; none where the stage asks for none. A stage that asks in vain is told so in the log."""
    if not stage.train.validate_every_steps:
        return []
    found = sorted((pf for pf in usable.values() if pf[1]["split"] == "validation"), key=lambda pf: pf[0].clip_key)
    if not found:
        get_run_logger().warning("stage '%s' has no validation: no usable clip is of the split 'validation'. Mark some.", stage.name)
    return found[: stage.train.validate_clips]


def sample_pairs(usable: dict[str, tuple[ClipPlace, dict[str, Any]]], stage: StageSpec) -> tuple[tuple[ClipPlace, ClipPlace], ...]:
    """What is edited to be looked at: validation clips, else those that the stage's edits are of; products as the stage's edits have them."""
    if not stage.train.sample_every_steps:
        return ()
    if stage.backbone.expert:
        get_run_logger().warning("stage '%s' trains one expert of two, and an edit takes both: no samples while it trains.", stage.name)
        return ()
    places = sorted(usable.values(), key=lambda pf: pf[0].clip_key)
    validation, held_out = ([pf for pf in places if of(pf[1])] for of in (lambda f: f["split"] == "validation", lambda f: f["held_out"]))
    pool = validation or held_out or places
    pairs = choose_pairs(pool[: stage.train.sample_clips], stage.edit.reference == "swap", pool)
    return tuple((pair.template, pair.reference) for pair in pairs)
