from __future__ import annotations

import json
import math

import pytest

from pvtt_model.backbones.clip import load_clip
from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.evaluation.gate import Verdict, judge
from pvtt_model.evaluation.edit_scores import Score
from pvtt_model.evaluation.report import Report, aggregate
from pvtt_model.evaluation.report_markdown import report_markdown
from pvtt_model.evaluation.score import score_edit, score_row
from pvtt_model.specs import GateSpec, Threshold


def test_every_metric_of_an_edit(edits_row, nano_eval, histogram, mean_colour) -> None:
    scores = score_edit(edits_row(), nano_eval, mean_colour, histogram)
    assert all(name == score.name for name, score in scores.items())
    assert scores["bg_psnr_db"].value == scores["bg_psnr_raw_db"].value < 40
    assert scores["bg_psnr_composited_db"].value == 100.0
    assert scores["bg_psnr_ceiling_db"].value == pytest.approx(20 * math.log10(255), abs=1e-3)  # every pixel one off
    assert scores["bg_ssim_composited"].value == pytest.approx(1.0, abs=1e-6)
    assert scores["bg_ssim"].value == scores["bg_ssim_raw"].value < 0.9999
    assert scores["bg_psnr_ceiling_db"].direction == scores["frame_ssim_source"].direction == "context"
    assert scores["clip_i[mean-colour]"].extractor == "mean-colour" and "mid-grey" in scores["clip_i[mean-colour]"].note
    assert scores["dino_i[colour-histogram]"].value > scores["dino_i_source[colour-histogram]"].value  # red was asked for, green was there
    assert scores["clip_t[mean-colour]"].value > scores["clip_t_source[mean-colour]"].value
    assert "clip_i" not in scores


def test_real_extractors_with_random_weights_work(edits_row, nano_eval) -> None:
    clip, dino = load_clip(nano_eval.clip, None), load_image_encoder(nano_eval.dino, None)
    scores = score_edit(edits_row(frames=3), nano_eval, clip, dino)
    assert {"clip_i[nano-openclip]", "dino_i[nano-dinov2]", "clip_t[nano-openclip]"} <= set(scores)
    assert "random weights" in str(scores["clip_i[nano-openclip]"].extractor)
    assert all(score.value is not None and -1.001 <= score.value <= 100 for score in scores.values())


def test_the_published_extractor_keeps_its_name(edits_row, real_eval, histogram, mean_colour) -> None:
    histogram.name, mean_colour.name = "dinov2-vit-l14", "openclip-vit-h14"
    scores = score_edit(edits_row(), real_eval, mean_colour, histogram)
    assert {"clip_i", "dino_i", "clip_t", "clip_i_source"} <= set(scores)


def test_what_cannot_be_measured_says_why(edits_row, nano_eval, histogram, mean_colour) -> None:
    row = edits_row(prompt="")
    full = [edits_row()["mask"][0]] * 5
    row["mask"] = full
    scores = score_edit(row, nano_eval, mean_colour, histogram)
    assert scores["clip_t[mean-colour]"].value is None and "prompt is empty" in scores["clip_t[mean-colour]"].note
    assert scores["bg_psnr_db"].value is not None


def test_failed_and_broken_edits_are_counted(edits_row, failed_row, nano_eval, histogram, mean_colour) -> None:
    short = edits_row("short")
    short["raw"] = short["raw"][:3]
    garbage = edits_row("garbage")
    garbage["raw"] = [b"not a picture"] * 5
    rows = [edits_row("a"), edits_row("b", seed=1, noise=30), failed_row("lost", "out of memory"), short, garbage]
    edits = [score_row(row, nano_eval, mean_colour, histogram) for row in rows]
    assert [e.status for e in edits] == ["done", "done", "failed", "quarantined", "quarantined"]
    assert "several shapes" in edits[3].reason and edits[2].reason == "out of memory"
    report = aggregate("verify", edits, nano_eval, on_training_clips=True)
    assert (report.edits_done, report.edits_failed, report.edits_quarantined, report.edits) == (2, 1, 2, 5)
    metric = report.metric("bg_psnr_db")
    assert metric is not None and metric.n == 2 and metric.worst == "b" and metric.worst_value < metric.value
    said = " ".join(report.warnings)
    for words in ("training clips", "Random weights", "FVD not measured", "3 of 5 edits are not in the means"):
        assert words in said
    assert "out of memory" in report_markdown(report)


def test_a_report_round_trips_as_json_without_nan(edits_row, nano_eval, histogram, mean_colour) -> None:
    row = edits_row(frames=3)
    row["raw"] = row["composited"] = row["round_trip"] = row["source"]  # identical: the infinite PSNR
    report = aggregate("verify", [score_row(row, nano_eval, mean_colour, histogram)], nano_eval)
    text = report.model_dump_json()
    json.loads(text, parse_constant=lambda c: pytest.fail(f"JSON holds {c}"))
    assert Report.model_validate_json(text) == report
    assert report.values()["bg_psnr_db"] == 100.0
    with pytest.raises(ValueError, match="finite"):
        Score(name="x", value=float("nan"), direction="higher")


def test_a_still_edit_is_called_so(edits_row, nano_eval, histogram, mean_colour) -> None:
    row = edits_row()
    row["raw"] = [row["raw"][0]] * 5
    report = aggregate("verify", [score_row(row, nano_eval, mean_colour, histogram)], nano_eval)
    assert any("near-static" in w for w in report.warnings)
    assert report.values()["frame_ssim_raw"] == pytest.approx(1.0)


def test_one_edit_twice_is_refused(edits_row, nano_eval, histogram, mean_colour) -> None:
    edit = score_row(edits_row(frames=2), nano_eval, mean_colour, histogram)
    with pytest.raises(ValueError, match="Count each edit once"):
        aggregate("verify", [edit, edit], nano_eval)


@pytest.fixture
def report(edits_row, nano_eval, histogram, mean_colour) -> Report:
    return aggregate("verify", [score_row(edits_row(), nano_eval, mean_colour, histogram)], nano_eval)


def test_a_gate(report) -> None:
    passed = judge(report, GateSpec(thresholds=(Threshold(metric="bg_psnr_composited_db", op=">", value=20.0),)))
    assert passed.passed and "passed" in passed.message()
    missed = judge(report, [Threshold(metric="bg_psnr_db", op=">", value=60.0), Threshold(metric="edits_failed", op="<=", value=0)])
    assert not missed.passed and [line.passed for line in missed.lines] == [False, True]
    assert "missed 1 of 2" in missed.message() and "wanted > 60" in missed.message() and "**miss**" in missed.markdown()
    assert Verdict.model_validate_json(missed.model_dump_json()) == missed
    assert judge(report, []).passed


def test_what_is_not_measured_fails(report) -> None:
    verdict = judge(report, [Threshold(metric="clip_i", op=">", value=-1.0), Threshold(metric="fvd", op="<", value=1e9)])
    stand_in, absent = verdict.lines
    assert not verdict.passed and stand_in.got is None and absent.got is None
    assert "stand-in" in stand_in.why and "clip_i[mean-colour]" in stand_in.why
    assert absent.why.startswith("not measured: the report holds") and "bg_psnr_db" in absent.why
    assert "not measured" in verdict.message()


def test_nothing_measured_fails(nano_eval, failed_row, histogram, mean_colour) -> None:
    report = aggregate("verify", [score_row(failed_row("a", "x"), nano_eval, mean_colour, histogram)], nano_eval)
    verdict = judge(report, [Threshold(metric="bg_psnr_db", op=">", value=0.0)])
    assert not verdict.passed and "0 of 1 edits done" in verdict.lines[0].why
