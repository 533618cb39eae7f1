"""Near-duplicates among the clips of a data set, and those of them that would leak the evaluation into training."""

from __future__ import annotations

from typing import Any

from pvtt_model.data.duplicates import near_pairs

Fact = dict[str, Any]
LEAKS = "leaks_evaluation"


def find_twins(facts: list[Fact], most_bits: float | None, known: list[Fact], covered: int) -> list[Fact]:
    """Every pair of clips at most `most_bits` apart: clip_key, source, twin, twin_source, bits, exact (the same bytes), of_truth.

    of_truth: a clip for training, and the right edit of a held-out one. known: the pairs among the first `covered` facts, found before. A fact
    of before there were hashes is in no pair.
    """
    if most_bits is None:
        return []
    hashes = [fact.get("frame_hashes") for fact in facts]
    pairs = [_pair(facts[i], facts[j], bits) for i, j, bits in near_pairs(hashes, most_bits, covered)]
    judged = [fact for fact in facts if fact["held_out"] and fact.get("truth_frame_hashes")]
    with_truths = near_pairs(hashes + [fact["truth_frame_hashes"] for fact in judged], most_bits, len(facts))
    answers = [(facts[i], judged[j - len(facts)], bits) for i, j, bits in with_truths if i < len(facts) and not facts[i]["held_out"]]
    earlier = [pair for pair in known if not pair["of_truth"]]  # truths are few, and compared anew
    return earlier + pairs + [_pair(a, b, bits) | {"exact": False, "of_truth": True} for a, b, bits in answers]


def _pair(a: Fact, b: Fact, bits: float) -> Fact:
    same = a.get("video_sha256") is not None and a.get("video_sha256") == b.get("video_sha256")
    return {
        "clip_key": a["clip_key"], "source": a["source"], "twin": b["clip_key"], "twin_source": b["source"],
        "bits": round(bits, 2), "exact": same, "of_truth": False,
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
