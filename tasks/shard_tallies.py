"""The tallies behind a data card, one a shard, kept with the card: the next version counts those shards alone that changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from infra.artifact_store import ArtifactStore, CorruptObject
from infra.store import ObjectMissing
from pvtt_model.artifacts import Manifest, digest
from pvtt_model.data.tally import REVISION, Tally, tally, tally_from
from pvtt_model.specs import MaskSpec
from tasks.pieces import ROWS, by_shard, pieces_of, reasons, rows_beside
from tasks.tables import read_json

TALLIES = "tallies.json"
MOST_CARDS = 4  # looked through, newest first
FEW = 8  # shards that are sooner counted again than looked for in one more card, which holds all of its own
BESIDE = ("clips", "masks", "conditions")
#: What is counted of a clip, of its mask and of its conditions.
FACTS = ("clip_key", "product_id", "split", "width", "height", "fps", "num_frames", "prompt", "product_words", "video_sha256", "licence")
Row = dict[str, Any]


class Counted(NamedTuple):
    """key: by all that the tally hangs on; None of shards made before there were pieces, which are counted each time."""

    key: str | None
    tally: Tally


def shard_tallies(store: ArtifactStore, manifests: Mapping[str, Manifest], thresholds: MaskSpec) -> dict[int, Counted]:
    """By the shard's number, in order. Counted are the clips in the table, as they lie in the shards; at risk is what these thresholds say."""
    facts = by_shard(read_json(store, manifests["clips"]))
    lost = {row["clip_key"] for row in reasons(store, manifests["latents"]) if not row["usable"]}
    pieces = [pieces_of(manifests[kind], ROWS) for kind in BESIDE]
    judged_by = thresholds.risky()
    keys: dict[int, str | None] = {}
    for number, its in facts.items():
        if all(number in of_kind for of_kind in pieces):
            places = [[fact["row"], fact["held_out"]] for fact in its]
            without_latents = [fact["row"] for fact in its if fact["clip_key"] in lost]
            keys[number] = digest("tally", REVISION, judged_by, [of_kind[number].sha256 for of_kind in pieces], places, without_latents)
        else:
            keys[number] = None
    known = _known(store, {key for key in keys.values() if key})
    new = {number: its for number, its in facts.items() if keys[number] not in known}
    made = dict(zip(new, _count(store, manifests, new, lost, thresholds), strict=True))
    by_number = made | {number: known[key] for number, key in keys.items() if key in known}
    return {number: Counted(key, by_number[number]) for number, key in keys.items()}


def kept_tallies(counted: Mapping[int, Counted]) -> list[list[Any]]:
    """As `TALLIES` holds them."""
    return [[one.key, one.tally.kept()] for one in counted.values() if one.key]


def _known(store: ArtifactStore, wanted: Collection[str]) -> dict[str, Tally]:
    """What the newest cards kept; of one whose file is lost or damaged nothing, since to count again is exact (`pvtt artifacts verify` tells)."""
    found: dict[str, Tally] = {}
    for card in store.newest("cards", MOST_CARDS) if wanted else []:
        if (len(wanted) - len(found) > FEW or not found) and TALLIES in {file.name for file in card.files}:
            with suppress(ObjectMissing, CorruptObject):
                kept = read_json(store, card, TALLIES, keep=False)
                found |= {key: tally_from(its) for key, its in kept if key in wanted and key not in found}
    return found


def _count(
    store: ArtifactStore, manifests: Mapping[str, Manifest], facts: Mapping[int, list[Row]], lost: Collection[str], thresholds: MaskSpec
) -> Iterable[Tally]:
    """The tally of each of these shards."""
    from pvtt_model.curation.mask_risk import judged

    every = [fact for its in facts.values() for fact in its]
    beside = (rows_beside(store, manifests[kind], every) for kind in BESIDE)
    for brief, of_clips, of_masks, conditions in zip(facts.values(), *beside, strict=True):
        clips = [{name: row.get(name) for name in FACTS} | {"held_out": fact["held_out"]} for row, fact in zip(of_clips, brief, strict=True)]
        latents = [{"clip_key": fact["clip_key"], "usable": fact["clip_key"] not in lost} for fact in brief]
        yield tally(clips, judged(of_masks, brief, thresholds), {"latents": latents, "conditions": conditions})
