"""Which product goes into which clip, and which one is the wrong one."""

from __future__ import annotations

from pvtt_model.artifacts import StoredFile
from tasks.edit_pairs import choose_pairs
from tasks.edit_work import ClipPlace

FILE = StoredFile(name="shard", key="pool/00/00", bytes=1, sha256="0" * 64, rows=1)


def placed(*clips: tuple[str, str], **facts: dict[str, str]):
    """(clip, product) pairs; more facts by clip."""
    return [(ClipPlace(key, i, FILE, FILE, FILE, FILE), {"product_id": product, **facts.get(key, {})}) for i, (key, product) in enumerate(clips)]


def names(pairs) -> list[tuple[str, str, str | None]]:
    return [(p.template.clip_key, p.reference.clip_key, p.wrong.clip_key if p.wrong else None) for p in pairs]


def test_own_and_the_next_other_product_as_before():
    places = placed(("a", "x"), ("b", "x"), ("c", "y"))
    assert names(choose_pairs(places, swap=False)) == [("a", "a", None), ("b", "b", None), ("c", "c", None)]
    assert names(choose_pairs(places, swap=True)) == [("a", "c", None), ("b", "c", None), ("c", "a", None)]
    assert names(choose_pairs(placed(("a", "x"), ("b", "x")), swap=True)) == [("a", "a", None), ("b", "b", None)]


def test_a_known_right_edit_gets_its_product_wherever_it_is():
    known = {"a": {"truth_product_id": "z"}, "b": {"truth_product_id": "gone"}}
    pool = placed(("a", "x"), ("b", "y"), ("c", "z"), ("d", "z"), **known)
    assert names(choose_pairs(pool[:2], swap=True, pool=pool)) == [("a", "c", None), ("b", "a", None)]
    assert names(choose_pairs(pool[:1], swap=False, pool=pool)) == [("a", "a", None)]


def test_the_wrong_product_is_a_third_and_rather_no_look_alike():
    facts = {k: {"look_alikes": group} for k, group in zip("abcd", ("red", "red", "red", "blue"), strict=True)}
    facts["a"]["truth_product_id"] = "y"
    pool = placed(("a", "x"), ("b", "y"), ("c", "z"), ("d", "w"), **facts)
    assert names(choose_pairs(pool, True, pool, with_wrong=True)) == [("a", "b", "d"), ("b", "c", "d"), ("c", "d", "a"), ("d", "a", "b")]
    alike = placed(("a", "x"), ("b", "y"), ("c", "z"), **facts)
    assert names(choose_pairs(alike[:1], True, alike, with_wrong=True)) == [("a", "b", "c")], "a look-alike where there is no other"
    assert names(choose_pairs(pool[:2], True, pool[:2], with_wrong=True)) == [("a", "b", None), ("b", "a", None)]
    plain = placed(("a", "x"), ("b", "y"), ("c", "z"))
    assert names(choose_pairs(plain, True, with_wrong=True))[0] == ("a", "b", "c")
