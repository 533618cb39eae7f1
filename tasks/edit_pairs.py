"""Which product goes into which clip, and which one is the wrong one."""

from __future__ import annotations

from typing import Any, NamedTuple

from tasks.edit_work import ClipPlace

Placed = list[tuple[ClipPlace, dict[str, Any]]]


class Pair(NamedTuple):
    """The clip that is edited, the clip whose product goes in, and one of a third product to go wrong with."""

    template: ClipPlace
    reference: ClipPlace
    wrong: ClipPlace | None


def choose_pairs(places: Placed, swap: bool, pool: Placed | None = None, with_wrong: bool = False) -> list[Pair]:
    """A pair for each of `places`, in their order; products come from `pool` (all clips that may be used, sorted; else `places`).

    swap: a template whose right edit is known for a product (truth_product_id) gets that product's first clip; another, or where the pool
    has not that product, the next clip, in order, that shows another product; its own where there is none. with_wrong: also the next clip
    after the template, in the pool's order, of a third product, rather one that is no look-alike of the right one; None where there is none.
    """
    pool = places if pool is None else pool
    facts = {place.clip_key: fact for place, fact in pool}
    first_of = {fact["product_id"]: place for place, fact in reversed(pool)}
    pairs = []
    for i, (template, fact) in enumerate(places):
        others = places[i + 1 :] + places[:i] if swap else []
        known = first_of.get(fact.get("truth_product_id")) if swap else None
        other = known or next((place for place, its in others if its["product_id"] != fact["product_id"]), template)
        wrong = _wrong(template, fact, facts.get(other.clip_key, fact), pool) if with_wrong else None
        pairs.append(Pair(template, other, wrong))
    return pairs


def _wrong(template: ClipPlace, fact: dict[str, Any], right: dict[str, Any], pool: Placed) -> ClipPlace | None:
    at = next((i + 1 for i, (place, _) in enumerate(pool) if place == template), 0)
    third = [(place, its) for place, its in pool[at:] + pool[:at] if its["product_id"] not in (fact["product_id"], right["product_id"])]
    alike = right.get("look_alikes")
    return next((place for place, its in third if alike is None or its.get("look_alikes") != alike), third[0][0] if third else None)
