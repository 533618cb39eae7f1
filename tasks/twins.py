"""Near-duplicates among the clips of a data set, and those of them that would leak the evaluation into training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pvtt_model.data.duplicates import near_pairs, pairs_between

Fact = dict[str, Any]
LEAKS = "leaks_evaluation"
BLOCK = 1000  # clips found before that are compared at once, their shards whole


class Seen(NamedTuple):
    """What tells a clip from others, a row of its shard's `hashes` piece: the video's SHA-256, frame hashes, and those of the right edit."""

    video_sha256: str | None
    frames: str | None
    truth: str | None


def find_twins(facts: list[Fact], most_bits: float | None, known: list[Fact], covered: int, hashes: Callable[[int], list[Any]]) -> list[Fact]:
    """Every pair of clips at most `most_bits` apart: clip_key, source, twin, twin_source, bits, exact (the same bytes), of_truth.

    of_truth: a clip for training, and the right edit of a held-out one. known: the pairs among the first `covered` facts, found before. hashes:
    a shard's number -> the `Seen` of its rows; read shard by shard, and of the clips found before a block is held. A clip of before there were
    hashes is in no pair.
    """
    if most_bits is None:
        return []
    judged = [i for i, fact in enumerate(facts) if fact["held_out"] and fact.get("has_truth")]
    own = _seen(facts, [*range(covered, len(facts)), *judged], hashes)
    new, truths = [own[i].frames for i in range(covered, len(facts))], [own[i].truth for i in judged]
    pairs, answers = [], []

    def compare(places: Sequence[int], seen: Mapping[int, Seen], others: Sequence[str | None]) -> None:
        """These clips with `others`, which are the new ones and then the truths, or the truths alone."""
        first_truth = len(others) - len(truths)
        for i, j, bits in pairs_between([seen[place].frames for place in places], others, most_bits):
            place, other = places[i], covered + j if j < first_truth else judged[j - first_truth]
            if j < first_truth:
                pairs.append((place, other, _pair(facts[place], facts[other], bits, _same(seen[place], own[other]))))
            elif not facts[place]["held_out"]:
                answers.append((place, j - first_truth, _pair(facts[place], facts[other], bits) | {"of_truth": True}))

    if new or truths:
        block: dict[int, Seen] = {}
        for number, places in _by_shard(facts, range(covered)).items():
            block |= _rows(facts, places, hashes(number))
            if len(block) >= BLOCK:
                compare([*block], block, [*new, *truths])
                block = {}
        compare([*block], block, [*new, *truths])
    compare(range(covered, len(facts)), own, truths)
    for i, j, bits in near_pairs(new, most_bits):
        a, b = covered + i, covered + j
        pairs.append((a, b, _pair(facts[a], facts[b], bits, _same(own[a], own[b]))))
    earlier = [pair for pair in known if not pair["of_truth"]]  # truths are few, and compared anew
    return earlier + [pair for found in (pairs, answers) for *_, pair in sorted(found, key=lambda p: p[:2])]


def _by_shard(facts: Sequence[Fact], places: Iterable[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place in places:
        found.setdefault(facts[place]["shard"], []).append(place)
    return found


def _rows(facts: Sequence[Fact], places: Iterable[int], rows: Sequence[Any]) -> dict[int, Seen]:
    return {place: Seen(*rows[facts[place]["row"]]) for place in places}


def _seen(facts: Sequence[Fact], places: Iterable[int], hashes: Callable[[int], list[Any]]) -> dict[int, Seen]:
    found: dict[int, Seen] = {}
    for number, its in _by_shard(facts, places).items():
        found |= _rows(facts, its, hashes(number))
    return found


def _same(a: Seen, b: Seen) -> bool:
    return a.video_sha256 is not None and a.video_sha256 == b.video_sha256


def _pair(a: Fact, b: Fact, bits: float, exact: bool = False) -> Fact:
    return {
        "clip_key": a["clip_key"], "source": a["source"], "twin": b["clip_key"], "twin_source": b["source"],
        "bits": round(bits, 2), "exact": exact, "of_truth": False,
    }  # fmt: skip


def leaking(facts: list[Fact], twins: list[Fact]) -> dict[str, Fact]:
    """clip_key -> refusal, of each clip for training that has a held-out twin; the nearest one is named."""
    by_key = {fact["clip_key"]: fact for fact in facts}
    found: dict[str, Fact] = {}
    for pair in sorted(twins, key=lambda pair: pair["bits"]):
        for mine, other in ((pair["clip_key"], pair["twin"]), (pair["twin"], pair["clip_key"])):
            if mine in by_key and other in by_key and by_key[other]["held_out"] and not by_key[mine]["held_out"] and mine not in found:
                found[mine] = _refusal(by_key[mine], by_key[other], pair)
    return found


def _refusal(fact: Fact, twin: Fact, pair: Fact) -> Fact:
    how = "has the same bytes as" if pair["exact"] else f"differs by {pair['bits']:g} of 64 bits from"
    how += " the right edit of" if pair["of_truth"] else ""
    reason = (
        f"'{fact['source']}' {how} '{twin['source']}' (line {twin['line']}), which is held out: what is trained on cannot be judged. "
        "Remove one of the two, hold both out by metadata.split, or, where they only look alike, set clips.near_duplicate_bits=null."
    )
    return {"line": fact["line"], "kind": LEAKS, "reason": reason, "source": fact["source"], "content": fact.get("content")}
