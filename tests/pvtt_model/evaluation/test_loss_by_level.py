"""The loss by noise level against a reference: exact means, verdicts by hand, and what the shipped curves say of an untrained base."""

from __future__ import annotations

import json
import math

import pytest

from pvtt_model.evaluation.loss_by_level import (
    BINS,
    Curve,
    Level,
    compare_to_reference,
    level_report,
    level_rows,
    levels_of,
    loss_by_level,
)
from pvtt_model.nano.loss_curves import CURVES, shipped_curve
from pvtt_model.recipes import recipe_by_name


def curve(mean: float = 1.0, std: float = 0.2, count: int = 100) -> Curve:
    return Curve("by hand", (Level(mean, std, count),) * BINS)


def step(loss: float, count: int = 4) -> dict[str, float]:
    """A record whose every bin has `count` samples of that mean loss."""
    return {k: v for i in range(BINS) for k, v in ((f"level{i}_sum", loss * count), (f"level{i}_count", count))}


def test_levels_over_steps():
    """Sums 2 of 2 and 9 of 3 samples: mean 11/5; deviation between samples sqrt(2 (1 - 2.2)^2 + 3 (3 - 2.2)^2)."""
    levels = levels_of([{"level3_sum": 2.0, "level3_count": 2}, {"loss": 1.0}, {"level3_sum": 9.0, "level3_count": 3}])
    assert levels[3].mean == pytest.approx(2.2) and levels[3].count == 5
    assert levels[3].std == pytest.approx(math.sqrt(2 * 1.2**2 + 3 * 0.8**2))
    assert [level.count for level in levels].count(0) == 9


@pytest.mark.parametrize(("mean", "verdict"), [(1.0, "right"), (1.18, "right"), (1.19, "too high"), (0.82, "right"), (0.81, "too low")])
def test_verdicts_by_hand(mean, verdict):
    """A tenth of 1 and 3 x 0.2 sqrt(1/100 + 1/100) are 0.1849; the training's own deviation has no say."""
    found = compare_to_reference([Level(mean, 9.0, 100)] * BINS, curve())[0]
    assert found.allowed == pytest.approx(0.1 + 0.6 * math.sqrt(0.02)) and found.verdict == verdict
    assert compare_to_reference([Level(1.19, 0.0, 50)] * BINS, curve())[0].verdict == "right", "fewer samples, more room"


def test_no_samples_no_verdict():
    levels = [Level(0.0, 0.0, 0), *[Level(1.0, 0.0, 5)] * 9]
    found = compare_to_reference(levels, curve())
    assert found[0].verdict == "no data" and found[0].loss is None and {c.verdict for c in found[1:]} == {"right"}


def test_a_report_and_its_figure(tmp_path):
    records = [step(1.0)] * 20 + [step(0.5)] * 30
    report = level_report(records, curve(), "the untrained base")
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    row = level_rows(report)[0]
    assert row["sigma"] == "0.0 to 0.1" and row["first 20 steps, verdict"] == "right" and row["last 20 steps, verdict"] == "too low"
    path = loss_by_level(report, tmp_path / "a.png", title="verify")
    assert path.read_bytes()[:4] == b"\x89PNG" and loss_by_level(report, tmp_path / "b.png", title="verify").read_bytes() == path.read_bytes()


def test_without_a_curve_the_first_steps_are_the_reference():
    records = [step(1.0)] * 10 + [step(1.5)] * 10 + [step(3.0)] * 30 + [{"level2_sum": 1.0, "level2_count": 1}]
    report = level_report(records, None, "the untrained base")
    assert "own first 20 steps, from the untrained base" in report["reference"]["source"]
    assert list(report["compared"]) == ["last 20 steps"] and report["reference"]["levels"][0]["mean"] == 1.25
    assert report["compared"]["last 20 steps"][0]["verdict"] == "too high"
    assert level_report([{"step": 0, "loss": 1.0}], None, "x") is None, "records of a training from before there were bins"


def test_bins_that_the_levels_never_reach_are_plain_json():
    report = level_report([{"level9_sum": 1.0, "level9_count": 1}] * 30, None, "the untrained base")
    assert report["compared"]["last 20 steps"][0]["verdict"] == "no data"
    json.dumps(report, allow_nan=False)


def test_a_curve_of_other_bins():
    with pytest.raises(ValueError, match="a reference curve of 5 bins; it takes 10"):
        Curve.from_json({"source": "", "levels": [{"mean": 1, "std": 0, "count": 1}] * 5})


def test_the_shipped_curves():
    """One a base, by the settings they were measured with; another size or another VAE has none."""
    recipe = recipe_by_name("nano")
    small, medium = (shipped_curve(recipe, stage) for stage in recipe.stages[:2])
    assert small and medium and "nano:nano-s" in small.source and "nano:nano-m" in medium.source
    assert shipped_curve(recipe, recipe.stages[2]) == medium and shipped_curve(recipe_by_name("nano-long"), recipe.stages[0]) == small
    assert len(json.loads(CURVES.read_text())) == 2
    assert shipped_curve(recipe_by_name("nano-wide"), recipe.stages[0]) is None
    assert shipped_curve(recipe_by_name("wan2.1-vace-1.3b"), recipe_by_name("wan2.1-vace-1.3b").stages[0]) is None
    assert all(m.mean < s.mean for s, m in zip(small.levels, medium.levels, strict=True)), "the larger base is the better one at every level"
