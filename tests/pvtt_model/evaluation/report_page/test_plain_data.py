"""What stands on the page before it is HTML: the headline, the rows of the matrix, the groups, the order of the edits, the trend."""

from __future__ import annotations

import statistics

import pytest

from pvtt_model.evaluation.edit_scores import Score
from pvtt_model.evaluation.gate import judge
from pvtt_model.evaluation.report import Metric
from pvtt_model.evaluation.report_page.beside import Past
from pvtt_model.evaluation.report_page.groups import group_tables
from pvtt_model.evaluation.report_page.headline import headline
from pvtt_model.evaluation.report_page.trend import ticks, trend_html, trend_points
from pvtt_model.evaluation.report_page.variants import main_metrics, matrix_rows, split_name
from pvtt_model.evaluation.report_page.worst_first import worst_first
from pvtt_model.specs import Threshold


def test_the_headline_says_first_what_is_lost(report, verdict, old_report) -> None:
    edits, checks, gate = headline(report, verdict)
    assert edits.good is False and edits.text.startswith("61 of 64 edits: 3 missing")
    assert checks.good is False and checks.text == "1 of 2 sanity checks failed: different reference."
    assert gate.good is False and gate.text == "Gate missed: 1 of 2 thresholds, bg_psnr_db."
    edits, checks, gate = headline(old_report, judge(old_report, [Threshold(metric="bg_psnr_db", op=">", value=1.0)]))
    assert edits.good is True and checks.good is None and gate.good is True
    empty = old_report.model_copy(update={"per_edit": (), "edits_done": 0})
    assert headline(empty, None)[0].text == "No edit was made: nothing is measured." and headline(empty, None)[2].good is None


@pytest.mark.parametrize(
    ("name", "family", "suffix"),
    [
        ("clip_i", "clip_i", ""),
        ("clip_i_source[x]", "clip_i[x]", "source"),
        ("bg_psnr_ceiling_db", "bg_psnr_db", "ceiling"),
        ("in_product_psnr_db_wrong_reference", "in_product_psnr_db", "wrong_reference"),
        ("identity_top1_no_reference[j]", "identity_top1[j]", "no_reference"),
        ("identity_wrong_reference_shown[j]", "identity_wrong_reference_shown[j]", ""),
        ("frame_ssim_frozen", "frame_ssim", "frozen"),
        ("vae_psnr_db", "vae_psnr_db", ""),
    ],
)
def test_what_a_name_is_of(name, family, suffix) -> None:
    assert split_name(name) == (family, suffix)


def test_every_metric_has_its_place_in_the_matrix(report) -> None:
    rows = matrix_rows(report)
    placed = [m.name for row in rows for m in (*([row.edit] if row.edit else []), *row.beside.values())]
    assert sorted(placed) == sorted(m.name for m in report.metrics)
    assert [row.family for row in rows] == ["clip_i[nano]", "warp_error[raft-small]", "bg_psnr_db"] and set(rows[0].beside) == {"source"}


def test_a_raw_that_repeats_the_bare_name_is_no_column(report) -> None:
    bare = report.metric("bg_psnr_db")
    twice = report.model_copy(update={"metrics": (bare, bare.model_copy(update={"name": "bg_psnr_raw_db"}))})
    assert matrix_rows(twice)[0].beside == {}
    other = report.model_copy(update={"metrics": (bare, bare.model_copy(update={"name": "bg_psnr_raw_db", "value": 1.0}))})
    assert set(matrix_rows(other)[0].beside) == {"raw"}


def test_the_gates_metrics_come_first(report, verdict) -> None:
    assert [m.name for m in main_metrics(report, None)] == ["clip_i[nano]", "bg_psnr_db", "warp_error[raft-small]"]
    assert [m.name for m in main_metrics(report, verdict)] == ["bg_psnr_db", "warp_error[raft-small]", "clip_i[nano]"]


def test_groups_add_up(report, old_report) -> None:
    category, difficulty = group_tables(report, main_metrics(report, None))
    assert [(g.name, g.done, g.edits) for g in category.groups] == [("bag", 30, 30), ("cup", 31, 31), ("not given", 0, 3)]
    assert [(g.name, g.edits) for g in difficulty.groups] == [("other kind", 60), ("not given", 4)]
    bag = category.groups[0].cells[0]
    values = [e.scores["clip_i[nano]"].value for e in report.per_edit if e.groups.get("category") == "bag"]
    assert bag.mean == pytest.approx(statistics.fmean(values)) and bag.low < bag.mean < bag.high and bag.n == 30
    assert [g.cells[0] and g.cells[0].worst for g in category.groups] == [False, False, None]  # 0.7 in both: neither is worse
    lone = difficulty.groups[1].cells[0]
    assert lone.n == 1 and lone.low is None and not lone.worst and difficulty.groups[0].cells[0].worst  # clip00 has the best clip_i
    assert group_tables(old_report, main_metrics(old_report, None)) == []


def test_the_worst_come_first_and_say_why(report) -> None:
    cases = worst_first(report, main_metrics(report, None))
    assert sorted(c.edit.clip_key for c in cases) == sorted(e.clip_key for e in report.per_edit)
    assert [c.edit.clip_key for c in cases[:6]] == ["lost0", "lost1", "lost2", "clip05", "clip60", "clip00"]
    why = {c.edit.clip_key: c.why for c in cases}
    assert why["lost0"] == "missing: worker lost"
    assert why["clip05"] == "named by the failed check 'different reference'"
    assert why["clip30"].startswith("in no metric among the 3 worst; nearest to it: ")
    assert why["clip60"] == "worst of 61 in clip_i[nano] (0.4, mean 0.7)"
    assert why["clip00"].startswith("worst of 60 in warp_error[raft-small] (0.5, mean ")
    assert why["clip58"].startswith("3rd worst of 61 in clip_i[nano]")


def test_a_trend_holds_only_what_can_be_compared(report, verdict) -> None:
    clip = report.metric("clip_i[nano]")
    same, other = clip.model_copy(update={"value": 0.5}), clip.model_copy(update={"extractor": "another"})
    past = (Past("release", "01-02", "release a", {clip.name: same}), Past("stage", "base", "stage base", {clip.name: other}))
    points = trend_points(report, past, clip)
    assert [(p.kind, p.label, p.metric.value) for p in points] == [("release", "01-02", 0.5), ("this", "refine", clip.value)]
    html = trend_html(report, past, main_metrics(report, verdict), verdict)
    assert html.count("<svg") == 1 and html.count("class='bar'") == 2 and "release a: 0.5" in html
    assert "there is no trend yet" in trend_html(report, (), main_metrics(report, verdict), verdict)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 1.0, ["0.0", "0.5", "1.0"]),
        (28.7, 36.7, ["30", "32", "34", "36"]),
        (-0.17, 0.02, ["-0.15", "-0.10", "-0.05", "0.00"]),
        (0.9991, 0.9999, ["0.9992", "0.9994", "0.9996", "0.9998"]),
        (0.0, 120.0, ["0", "50", "100"]),
    ],
)
def test_ticks_are_round(low, high, texts) -> None:
    assert [text for _, text in ticks(low, high)] == texts


def test_many_equals_are_not_called_the_worst(report) -> None:
    """Of a metric that is 0 for most edits, being 0 says nothing."""
    some = [
        e.model_copy(update={"scores": {"x": Score(name="x", value=float(i < 5), direction="higher")}}) for i, e in enumerate(report.per_edit[:20])
    ]
    metric = Metric(name="x", value=0.25, std=0.4, n=20, worst=None, direction="higher")
    few = report.model_copy(update={"per_edit": tuple(some), "metrics": (metric,), "checks": ()})
    cases = worst_first(few, [metric])
    assert {c.edit.clip_key for c in cases[:15]} == {e.clip_key for e in some[5:]}
    assert cases[0].why == "in no metric among the 3 worst; nearest to it: one of 15 equally worst of 20 in x (0, mean 0.25)"
