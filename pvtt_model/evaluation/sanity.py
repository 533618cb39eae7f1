"""Sanity checks of a run: what would make good numbers worthless, looked for every time. Ours; each says its figures.

    edits accounted for        none failed, quarantined or missing
    no training clip           no edit is of a video, or a product, that was trained on
    frames aligned             no edit runs ahead of its source or behind it (frame_shift.py)
    not frozen                 no edit moves less than STILL_SHARE of its source, which flatters frame_ssim and warp_error
    product changed            no swap leaves the product as it was: changes it more than the VAE alone does
    follows the reference      the edit is nearer to its reference than the same edit made with a wrong one (edit.baselines: wrong_reference)
    beats the unchanged source of swaps, the edit is nearer to the reference than the source is
    beats a pasted picture     its weighted score is above that of the reference pasted into each frame, which has neither pose nor light

Differences are judged by paired bootstrap (confidence.py): where it cannot tell, the check says so, and with fewer than 8 edits it never can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pvtt_model.evaluation.confidence import paired
from pvtt_model.evaluation.edit_scores import Check, EditScores, Metric, Outcome, first_of, suffixed
from pvtt_model.evaluation.weighted_score import weighted_score, weighted_score_of

OWN_FIGURES = ("frame_shift", "product_change", "product_change_ceiling", "reference_effect")  # where they are missing, a check says so
STILL_SHARE = 0.2  # ours
LEAST_MOTION = 0.002  # of the full range, between neighbouring frames: below it a source is as good as still, and its motion may be the codec's noise
MOST_NAMED = 5  # clips that a sentence names; the check holds all
LEAST_EFFECT = 1 / 255  # mean change inside the mask, of the full range, below which another reference made no difference
UNCHANGED_FACTOR = 1.5  # of the VAE round trip's own change, up to which a product counts as unchanged


def sanity_checks(edits: Sequence[EditScores], metrics: Sequence[Metric], leaks: Mapping[str, str] | None) -> list[Check]:
    """All checks, in the order above. leaks: as in report.aggregate."""
    done = [edit for edit in edits if edit.status == "done"]
    return [
        _accounted(edits),
        _no_training_clip(leaks),
        _each(done, "frames aligned", "late by other than 0 frames", _shifted),
        _each(done, "not frozen", f"near-static, with under {STILL_SHARE:.0%} of their source's motion", _still),
        _each(_swaps(done), "product changed", "as good as unchanged inside the mask", _unchanged, "no edit puts another product in"),
        _follows(done),
        _beats_source(_swaps(done)),
        _beats_paste(metrics),
    ]


def _accounted(edits: Sequence[EditScores]) -> Check:
    lost = [edit for edit in edits if edit.status != "done"]
    if not edits:
        return Check(name="edits accounted for", status="failed", said="no edit was made")
    if not lost:
        return Check(name="edits accounted for", status="passed", said=f"all {len(edits)} edits are scored")
    counts = {status: sum(e.status == status for e in lost) for status in dict.fromkeys(e.status for e in lost)}
    what = ", ".join(f"{n} {status}" for status, n in counts.items())
    said = f"{len(lost)} of {len(edits)} edits are not scored: {what}. The means are of the others, which may be the easier ones"
    return Check(name="edits accounted for", status="failed", said=said, clips=tuple(e.clip_key for e in lost))


def _no_training_clip(leaks: Mapping[str, str] | None) -> Check:
    name = "no training clip"
    if leaks is None:
        return Check(name=name, status="not run", said="what was trained on is not known here")
    if not leaks:
        return Check(name=name, status="passed", said="no edit's video or product was trained on, by key and by content")
    some = "; ".join(f"{clip}: {why}" for clip, why in list(leaks.items())[:MOST_NAMED])
    said = f"evaluated on training clips, {len(leaks)} of them ({some}): the numbers say nothing about clips the model has not seen"
    return Check(name=name, status="failed", said=said, clips=tuple(leaks))


def _each(
    edits: Sequence[EditScores], name: str, fault: str, faulty: Callable[[EditScores], bool | None], nothing: str = "no edit could be asked"
) -> Check:
    """A check of every edit alone; `faulty` None: it cannot be asked of this one."""
    answers = [(edit.clip_key, faulty(edit)) for edit in edits]
    asked = [(clip, answer) for clip, answer in answers if answer is not None]
    bad = tuple(clip for clip, answer in asked if answer)
    beside = "" if len(asked) == len(edits) else f"; of {len(edits) - len(asked)} more it cannot be told"
    if not asked:
        reason = nothing if not edits else _why_not(edits, name)
        return Check(name=name, status="not run", said=reason)
    if not bad:
        return Check(name=name, status="passed", said=f"{len(asked)} edits looked at{beside}")
    shown = ", ".join(bad[:MOST_NAMED]) + (f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else "")
    return Check(name=name, status="failed", said=f"{len(bad)} of {len(asked)} edits are {fault}: {shown}{beside}", clips=bad)


def _why_not(edits: Sequence[EditScores], name: str) -> str:
    notes = [edit.scores["frame_shift"].note for edit in edits if "frame_shift" in edit.scores] if name == "frames aligned" else []
    return notes[0] if notes else "no edit could be asked"


def _shifted(edit: EditScores) -> bool | None:
    shift = _value(edit, "frame_shift")
    return None if shift is None else shift != 0


def _still(edit: EditScores) -> bool | None:
    made, source = _value(edit, "frame_motion_raw"), _value(edit, "frame_motion_source")
    return None if made is None or source is None or source < LEAST_MOTION else made < STILL_SHARE * source


def _unchanged(edit: EditScores) -> bool | None:
    change, floor = _value(edit, "product_change"), _value(edit, "product_change_ceiling")
    return None if change is None or floor is None else change <= max(UNCHANGED_FACTOR * floor, LEAST_EFFECT)


def _follows(done: Sequence[EditScores]) -> Check:
    name = "follows the reference"
    effects = [value for edit in done if (value := _value(edit, "reference_effect")) is not None]
    if not done:
        return Check(name=name, status="not run", said="no edit is scored")
    if not effects:
        return Check(name=name, status="not run", said="no edit was made with a wrong reference: add 'wrong_reference' to edit.baselines")
    effect = sum(effects) / len(effects)
    if effect < LEAST_EFFECT:
        said = f"another product's pictures change the edit by {effect:.2g} of the range inside the mask: the reference is not read"
        return Check(name=name, status="failed", said=said, clips=tuple(edit.clip_key for edit in done))
    check = _nearer(name, done, "_wrong_reference", "its reference", "the edit made with a wrong one")
    return check.model_copy(update={"said": f"{check.said}; another reference changes {effect:.2g} of the range inside the mask"})


def _beats_source(swaps: Sequence[EditScores]) -> Check:
    name = "beats the unchanged source"
    if not swaps:
        return Check(name=name, status="not run", said="no edit puts another product in")
    return _nearer(name, swaps, "_source", "the reference", "the source")


def _nearer(name: str, edits: Sequence[EditScores], suffix: str, what: str, other: str) -> Check:
    """By DINO-I and CLIP-I, whichever were measured: passed where one says so and none the opposite."""
    said, signs = [], []
    for family in ("dino_i", "clip_i"):
        metric = first_of((name for edit in edits for name in edit.scores), family)
        differences = [] if metric is None else _differences(edits, metric, suffixed(metric, suffix))
        if differences:
            found = paired(differences)
            signs.append(found.sign)
            said.append(f"{metric} {found}")
    if not signs:
        return Check(name=name, status="not run", said="neither dino_i nor clip_i was measured of both")
    status: Outcome = "failed" if -1 in signs else "passed" if 1 in signs else "cannot tell"
    return Check(name=name, status=status, said=f"nearer to {what} than {other} is, by {'; '.join(said)}")


def _beats_paste(metrics: Sequence[Metric]) -> Check:
    name = "beats a pasted picture"
    values = {m.name: m.value for m in metrics}
    own = weighted_score({n: value for n, value in values.items() if not n.startswith("fvd")})
    paste, source = weighted_score_of(values, "pasted"), weighted_score_of(values, "source")
    if own is None or paste is None:
        return Check(name=name, status="not run", said="no weighted score of both")
    beside = f" and {source.value:.3g} of the unchanged source" if source else ""
    said = f"{own.name} {own.value:.3g} (without fvd), beside {paste.value:.3g} of the reference pasted in{beside}"
    if own.value > paste.value:
        return Check(name=name, status="passed", said=said)
    return Check(
        name=name, status="failed", said=f"{said}: by these metrics no teacher is needed. Look at the videos, and at metrics that see light and pose"
    )


def _swaps(edits: Sequence[EditScores]) -> list[EditScores]:
    return [edit for edit in edits if edit.reference_key and edit.reference_key != edit.clip_key]


def _differences(edits: Sequence[EditScores], one: str, other: str) -> list[float]:
    pairs = [(_value(edit, one), _value(edit, other)) for edit in edits]
    return [a - b for a, b in pairs if a is not None and b is not None]


def _value(edit: EditScores, name: str) -> float | None:
    return edit.scores[name].value if name in edit.scores else None
