"""What the data card counts of some clips. Made of a shard's clips, kept, and put together: of ten clips more only their shards are counted.

JSON of a tally: a list for a list, pairs [what, how often] for a Counter, in the order in which things were first seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pvtt_model.data.captions import UNSTATED

Row = Mapping[str, Any]
REVISION = 1  # raised when something is counted in another way


class Tally(NamedTuple):
    """Lists are of the clips in their order, those of masks of the usable ones; Counters count clips. lost: by the first step that refused one."""

    keys: list[str]  # clip_key
    files: list[str]  # the video's SHA-256, else the clip_key: shots of one file have it in common
    seconds: list[float]  # of that file
    frames: list[int]
    areas: list[float]
    jitters_px: list[float]
    flags: Counter[str]  # held_out, validation, at_risk
    products: Counter[str]
    held_out_products: Counter[str]
    sizes: Counter[tuple[int, int]]  # width, height of the source
    fps: Counter[float]
    captions: Counter[tuple[str, str, bool, str | None]]  # text, source, fallback, the product's words
    licences: Counter[str]
    provenance: Counter[str]  # of masks
    risks: Counter[str]
    lost: Counter[str]

    def kept(self) -> list[Any]:
        """As JSON has it."""
        return [field if isinstance(field, list) else list(field.items()) for field in self]


def tally(facts: Sequence[Row], masks: Sequence[Row], later: Mapping[str, Sequence[Row]]) -> Tally:
    """facts: of the clips; masks: the masks' table, judged (mask_risk.py); later: kind -> its table (usable, clip_key), in order. A table may have
    clips that are not among the facts. Captions are those embedded, by the table of conditions, as they were before any words were hidden.

    Raises ValueError where a table lacks a clip.
    """
    tables = {kind: _of(facts, rows, kind) for kind, rows in {"masks": masks, **later}.items()}
    masks = tables["masks"]
    lost: dict[str, str] = {}
    for kind, rows in tables.items():
        for row in rows:
            if not row["usable"]:
                lost.setdefault(row["clip_key"], kind)
    seen = [row for row in masks if row["usable"]]
    flags = [
        *("held_out" for f in facts if f["held_out"]),
        *("validation" for f in facts if f["split"] == "validation"),
        *("at_risk" for row in seen if row.get("risks")),
    ]
    return Tally(
        keys=[f["clip_key"] for f in facts],
        files=[f.get("video_sha256") or f["clip_key"] for f in facts],
        seconds=[f["num_frames"] / f["fps"] for f in facts],
        frames=[f["num_frames"] for f in facts],
        areas=[row["area"] for row in seen],
        jitters_px=[row["jitter_px"] for row in seen],
        flags=Counter(flags),
        products=Counter(str(f["product_id"]) for f in facts),
        held_out_products=Counter(str(f["product_id"]) for f in facts if f["held_out"]),
        sizes=Counter((f["width"], f["height"]) for f in facts),
        fps=Counter(f["fps"] for f in facts),
        captions=_captions(facts, tables.get("conditions", ())),
        licences=Counter(str(f.get("licence") or "not stated") for f in facts),
        provenance=Counter(row["provenance"] for row in masks),
        risks=Counter(name for row in seen for name in row.get("risks", ())),
        lost=Counter(lost.values()),
    )


def together(tallies: Iterable[Tally]) -> Tally:
    """That of all their clips, in this order. None of them is changed."""
    whole = tally([], [], {})
    for one in tallies:
        fields: Iterable[tuple[Any, Any]] = zip(whole, one, strict=True)
        for all_of_it, its in fields:
            add = all_of_it.extend if isinstance(all_of_it, list) else all_of_it.update
            add(its)
    return whole


def tally_from(kept: Sequence[Any]) -> Tally:
    """Of `kept`. Raises ValueError or TypeError where it is none."""
    fields: list[Any] = []
    for field, pattern in zip(kept, tally([], [], {}), strict=True):
        if isinstance(pattern, list):
            fields.append(list(field))
        else:
            fields.append(Counter({tuple(what) if isinstance(what, list) else what: int(count) for what, count in field}))
    return Tally(*fields)


def _captions(facts: Sequence[Row], conditions: Sequence[Row]) -> Counter[tuple[str, str, bool, str | None]]:
    """Of each clip the caption that was embedded; its prompt where the table is of before and does not say."""
    rows = conditions or [{}] * len(facts)
    return Counter(
        (str(row.get("caption", fact["prompt"])), row.get("caption_source", UNSTATED), bool(row.get("caption_fallback")), fact.get("product_words"))
        for fact, row in zip(facts, rows, strict=True)
    )


def _of(facts: Sequence[Row], rows: Sequence[Row], kind: str) -> list[Row]:
    """The table's rows of the facts' clips, in their order."""
    by_key = {row["clip_key"]: row for row in rows}
    missing = [f["clip_key"] for f in facts if f["clip_key"] not in by_key]
    if missing:
        raise ValueError(f"the table of {kind} lacks {len(missing)} clips of the clips' own, e.g. {missing[0]}. Re-run curation.")
    return [by_key[f["clip_key"]] for f in facts]
