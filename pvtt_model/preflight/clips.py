"""Some clips of a source looked into as ingest does: does each have a mask a frame, of its size and rate, and does the mask predict trouble."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pvtt_model.curation.frames import as_seen
from pvtt_model.curation.mask_risk import risks_of
from pvtt_model.curation.masks import mask_of
from pvtt_model.data.checked_line import CheckedLine
from pvtt_model.data.ingest import inspect
from pvtt_model.data.refusals import Refusal
from pvtt_model.preflight.check import Check, some
from pvtt_model.specs import RecipeSpec

#: Refusals that speak of mask against video.
OF_MASKS = ("mask_frame_count", "mask_size", "mask_numbering", "unreadable_mask", "missing_mask")


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, first and last among them, evenly spread."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)}) if most > 1 else [0]


def clips_checks(lines: Sequence[CheckedLine], refused: Sequence[Refusal], total: int, recipe: RecipeSpec) -> list[Check]:
    """Checks of the clips looked at: ingest's own refusals, the masks against the video, and the risk of the given masks.

    lines, refused: what the scan made of the lines looked at; total: lines that the source has. A refused clip never stops a run, so some are a
    warning; all of them a failure.
    """
    refusals, rows = list(refused), []
    for line in lines:
        for found in inspect(line, recipe.clips, recipe.latents.video):
            if isinstance(found, Refusal):
                refusals.append(found)
            else:
                rows.append(found)
    seen = f"{len(lines) + len(refused)} of {total} lines looked at"
    return [_refusals(refusals, rows, seen), _agreement(refusals, rows, seen), _risks(rows, seen, recipe)]


def _refusals(refusals: Sequence[Refusal], rows: Sequence[Any], seen: str) -> Check:
    others = [r for r in refusals if r.kind not in OF_MASKS]
    what = f"clips that ingest accepts; {seen}"
    if not others:
        return Check("clips", "ok", what, f"{len(rows)} accepted, {len(refusals)} refused for their masks" if refusals else f"{len(rows)} accepted")
    kinds = some([f"{count} {kind}" for kind, count in Counter(r.kind for r in others).most_common()])
    got = f"{len(others)} refused: {kinds}; e.g. line {others[0].line}: {others[0].reason}"
    return Check("clips", "warn" if rows else "fail", what, got, "Refused clips are quarantined; correct them, or go on without.")


def _agreement(refusals: Sequence[Refusal], rows: Sequence[Any], seen: str) -> Check:
    wrong = [r for r in refusals if r.kind in OF_MASKS]
    given = sum(row["mask_format"] != "none" for row in rows)
    what = f"a mask of each frame, of the video's size; {seen}"
    if wrong:
        got = f"{len(wrong)} disagree, {given} agree; e.g. line {wrong[0].line}: {wrong[0].reason}"
        return Check("masks", "warn" if rows else "fail", what, got, "Make these masks anew, one a frame: none is padded.")
    if not given:
        return Check("masks", "skipped", what, f"{len(rows)} clips and no mask: they are found in curation (masks.when_missing)")
    return Check("masks", "ok", what, f"{given} agree" + (f", {len(rows) - given} have none and are found in curation" if given < len(rows) else ""))


def _risks(rows: Sequence[dict[str, Any]], seen: str, recipe: RecipeSpec) -> Check:
    """What the masks' geometry predicts, of given masks alone: others are not made here."""
    spec, looked, risky, unusable = recipe.masks, 0, [], []
    for row in rows:
        if row["mask_format"] == "none" or spec.provider != "given":
            continue
        looked += 1
        given_alone = spec.model_copy(update={"compare": "none"})
        mask = mask_of(as_seen(row), recipe.latents.video, given_alone, recipe.clips.decode_timeout_s)
        if not mask["usable"]:
            unusable.append(f"line {row['line']}: {mask['reason']}")
        elif risks := risks_of(mask, row["height"], spec):
            risky.append(f"line {row['line']}: {', '.join(risks.values())}")
    what = f"masks by which an edit is likely to succeed; {seen}"
    if not looked:
        return Check("mask risk", "skipped", what, "no given mask to measure")
    if not (risky or unusable):
        return Check("mask risk", "ok", what, f"{looked} measured, none at risk")
    got = f"of {looked} measured {len(risky)} at risk, {len(unusable)} unusable; e.g. {(unusable + risky)[0]}"
    return Check("mask risk", "warn", what, got, "Look at the overlays after curation (masks.risky_* are the thresholds).")
