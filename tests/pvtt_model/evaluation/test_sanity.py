"""Sanity checks on edits made wrong on purpose; two runs compared; gates on an end of the interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pvtt_model.evaluation.compare import compare
from pvtt_model.evaluation.edit_scores import EditScores, Score
from pvtt_model.evaluation.frame_shift import frame_shift
from pvtt_model.evaluation.gate import judge
from pvtt_model.evaluation.report import Report, aggregate
from pvtt_model.evaluation.score import score_row
from pvtt_model.specs import EvalSpec, Threshold


def drifting(frames: int = 9, side: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ground = torch.randint(0, 256, (3, side, side + frames), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    mask = torch.zeros(frames, side, side, dtype=torch.bool)
    mask[:, 8:14, 8:14] = True
    return torch.stack([ground[:, :, t : t + side] for t in range(frames)]), mask


@pytest.mark.parametrize("late", [-2, -1, 0, 1, 2])
def test_a_shift_of_frames_is_found_whatever_the_product(late: int) -> None:
    long, mask = drifting(13)
    source, edit = long[2:11], long[2 - late : 11 - late].clone()
    edit[mask[2:11, None].expand_as(edit)] = 255
    assert frame_shift(edit, source, mask[2:11]) == late
    with pytest.raises(ValueError, match="by chance"):
        frame_shift(edit[:8], source[:8], mask[:8])


def test_an_edit_that_fits_no_shift_is_not_called_shifted() -> None:
    """A frozen, a grey and a noisy one, and one whose first or last frame is black: bad, but not late."""
    source, mask = drifting(13)
    black_first, black_last = source.clone(), source.clone()
    black_first[0], black_last[-1] = 0, 0
    noise = torch.randint(0, 256, source.shape, generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    for edit in (source[:1].expand_as(source).contiguous(), torch.full_like(source, 128), noise, black_first, black_last):
        assert frame_shift(edit, source, mask) == 0


def test_a_still_background_tells_no_shift() -> None:
    source, mask = drifting()
    with pytest.raises(ValueError, match="hardly moves"):
        frame_shift(source[:1].expand_as(source), source[:1].expand_as(source), mask)


def edit(i: int, status: str = "done", reference: str = "other", **values: float | None) -> EditScores:
    scores = {
        name: Score(name=name, value=value, direction="higher" if name in ("clip_i", "dino_i", "bg_ssim") else "context")
        for name, value in values.items()
    }
    return EditScores(clip_key=f"c{i}", reference_key=reference, status=status, reason="" if status == "done" else "lost", scores=scores)  # type: ignore[arg-type]


def status_of(report: Report) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def fine(i: int, **changes: float) -> EditScores:
    values = {
        "clip_i": 0.9, "clip_i_source": 0.5, "clip_i_pasted": 0.6, "clip_i_wrong_reference": 0.6, "clip_t": 0.3, "clip_t_pasted": 0.2,
        "frame_motion_raw": 0.1, "frame_motion_source": 0.1, "frame_shift": 0.0, "product_change": 0.3, "product_change_ceiling": 0.02,
        "reference_effect": 0.2,
    } | changes  # fmt: skip
    return edit(i, **{name: value + 0.001 * (i % 3) if name == "clip_i" else value for name, value in values.items()})


def test_a_sound_run_passes_every_check(nano_eval: EvalSpec) -> None:
    report = aggregate("s", [fine(i) for i in range(10)], nano_eval, leaks={})
    assert set(status_of(report).values()) == {"passed"}, report.checks
    assert not [w for w in report.warnings if w.startswith("Sanity")]
    assert report.checks_failed == 0


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("frames aligned", {"frame_shift": 1.0}),
        ("not frozen", {"frame_motion_raw": 0.01}),
        ("product changed", {"product_change": 0.025}),
        ("follows the reference", {"reference_effect": 0.0}),
        ("follows the reference", {"clip_i_wrong_reference": 0.95}),
        ("beats the unchanged source", {"clip_i_source": 0.95}),
        ("beats a pasted picture", {"clip_i_pasted": 1.0, "clip_i": 0.1}),
    ],
)
def test_each_fault_fails_its_check_and_is_said(check: str, changes: dict[str, float], nano_eval: EvalSpec) -> None:
    report = aggregate("s", [fine(i, **changes) for i in range(10)], nano_eval, leaks={})
    assert status_of(report)[check] == "failed"
    assert any(w.startswith(f"Sanity check failed, {check}") for w in report.warnings)
    line = judge(report, [Threshold(metric="checks_failed", op="<=", value=0)]).lines[0]
    assert not line.passed and line.got == report.checks_failed


def test_few_edits_or_no_difference_cannot_tell(nano_eval: EvalSpec) -> None:
    assert status_of(aggregate("s", [fine(i) for i in range(7)], nano_eval))["follows the reference"] == "cannot tell"
    same = [fine(i, clip_i_wrong_reference=0.9 + 0.001 * ((i + 1) % 3)) for i in range(9)]
    report = aggregate("s", same, nano_eval)
    assert status_of(report)["follows the reference"] == "cannot tell"
    assert status_of(report)["no training clip"] == "not run"


def test_missing_edits_and_leaks_are_on_top(nano_eval: EvalSpec) -> None:
    edits = [fine(i) for i in range(61)] + [edit(i, status="missing") for i in range(61, 64)]
    report = aggregate("s", edits, nano_eval, leaks={"c3": "the clip itself was trained on"})
    assert (report.edits, report.edits_done, report.edits_missing) == (64, 61, 3)
    assert report.warnings[0].startswith("Sanity check failed, edits accounted for: 3 of 64 edits are not scored: 3 missing")
    assert "c3: the clip itself was trained on" in report.warnings[1]
    assert judge(report, [Threshold(metric="edits_missing", op="<=", value=2)]).lines[0].got == 3


def test_a_real_row_has_the_figures(edits_row: Any, nano_eval: EvalSpec, mean_colour: Any, histogram: Any) -> None:
    """The hand-made row: background drifts, green product replaced by red, noise on the background."""
    scores = score_row(edits_row(frames=9), nano_eval, mean_colour, histogram).scores
    assert scores["frame_shift"].value == 0
    assert scores["product_change"].value > 0.4 > 0.1 > scores["product_change_ceiling"].value  # type: ignore[operator]
    assert scores["clip_i_pasted[mean-colour]"].value is not None and "clip_i_wrong_reference[mean-colour]" not in scores


def run(values: list[float], nano_eval: EvalSpec) -> Report:
    return aggregate("s", [edit(i, clip_i=value, clip_t=0.1) for i, value in enumerate(values)], nano_eval)


def test_pairs_show_what_two_intervals_would_hide(nano_eval: EvalSpec) -> None:
    """Clips differ by 0.3, the runs by 0.01: the intervals of the means lie over each other, the paired one is clear of 0."""
    rng = np.random.default_rng(0)
    old = rng.uniform(0.2, 0.8, 40)
    new = old + 0.01 + rng.normal(0, 0.01, 40)
    a, b = run(list(old), nano_eval), run(list(new), nano_eval)
    assert a.metric("clip_i").high > b.metric("clip_i").low  # type: ignore[union-attr,operator]
    found = compare(b, a)
    assert [(line.metric, line.verdict, line.n) for line in found.lines] == [("clip_i", "better", 40)]
    assert [line.verdict for line in compare(a, b).lines] == ["worse"]
    assert [line.verdict for line in compare(a, a).lines] == ["cannot tell"]
    assert "**better**" in found.markdown()


def test_the_paired_interval_covers_the_truth(nano_eval: EvalSpec) -> None:
    """Of 200 comparisons without a difference about one in twenty is called one: between 2 and 22 of 200 here (binomial, 5 % and bias of N 30)."""
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(200):
        old = rng.uniform(0, 1, 30)
        called += compare(run(list(old + rng.normal(0, 0.1, 30)), nano_eval), run(list(old), nano_eval)).lines[0].verdict != "cannot tell"
    assert 2 <= called <= 22


def test_what_cannot_be_compared_is_said(nano_eval: EvalSpec) -> None:
    few = compare(run([0.9] * 7, nano_eval), run([0.1] * 7, nano_eval))
    assert few.lines[0].verdict == "cannot tell" and few.lines[0].low > 0
    other = aggregate("s", [edit(i, **{"clip_i[nano]": 0.5}) for i in range(9)], nano_eval)
    found = compare(run([0.9] * 12, nano_eval), other)
    assert not found.lines and len(found.left_out) == 2


@pytest.mark.parametrize(
    ("op", "bound", "passed"), [(">", "mean", True), (">", "safe", False), (">", "low", False), (">", "high", True), ("<", "safe", False)]
)
def test_a_gate_passes_on_the_bound_it_names(op: str, bound: str, passed: bool, nano_eval: EvalSpec) -> None:
    """Mean 0.5 of 0s and 1s, 20 of them: the interval is about 0.3 to 0.7."""
    report = run([0.0, 1.0] * 10, nano_eval)
    wanted = Threshold(metric="clip_i", op=op, value=0.45 if op == ">" else 0.55, bound=bound)  # type: ignore[arg-type]
    line = judge(report, [wanted]).lines[0]
    assert line.passed is passed
    assert line.bound == {"safe": "low" if op == ">" else "high"}.get(bound, bound)
    one = judge(run([1.0], nano_eval), [Threshold(metric="clip_i", op=">", value=0.5, bound="safe")]).lines[0]
    assert not one.passed and one.got is None and "no interval" in one.why
