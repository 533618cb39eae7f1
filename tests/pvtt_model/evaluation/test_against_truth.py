"""In-product PSNR, the pasted baseline, identity, the weighted score, and the table that shows them side by side."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pvtt_model.data.shards import write_shard
from pvtt_model.evaluation.confidence import bootstrap_interval
from pvtt_model.evaluation.contact_sheet import contact_sheet
from pvtt_model.evaluation.context_table import context_table
from pvtt_model.evaluation.gallery import SCHEMA, Gallery, choose_candidates, gallery_rows, read_gallery
from pvtt_model.evaluation.gate import judge as hold
from pvtt_model.evaluation.identity import shown_products, square_crops
from pvtt_model.evaluation.in_product_psnr import flat_grey, gap_closed, in_product_psnr_db
from pvtt_model.evaluation.pasted import cut_out, pasted
from pvtt_model.evaluation.report import Report, aggregate
from pvtt_model.evaluation.report_html import report_html
from pvtt_model.evaluation.report_markdown import report_markdown
from pvtt_model.evaluation.score import score_edit, score_row
from pvtt_model.evaluation.side_by_side import side_by_side
from pvtt_model.evaluation.weighted_score import PARTS, weighted_score
from pvtt_model.specs import ModelSpec, Threshold

COLOURS = {"red": (220, 20, 20), "yellow": (220, 220, 20), "blue": (20, 20, 220), "green": (20, 220, 20), "black": (0, 0, 0)}


class MeanColour:
    """Mean colour less mid grey: a direction in colour space."""

    name, side = "mean-colour (of a test)", 16

    def embed(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        assert images_BCHW.shape[2:] == (16, 16)
        return images_BCHW.mean(dim=(2, 3)) - 0.5


def picture(rgb: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 24), rgb).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def gallery(tmp_path) -> Gallery:
    rows = [{"product_id": n, "look_alikes": "warm" if n in ("red", "yellow") else None, "pictures": [picture(c)]} for n, c in COLOURS.items()]
    write_shard(tmp_path / "gallery.parquet", gallery_rows(rows + rows[:1]), SCHEMA)
    return read_gallery(tmp_path / "gallery.parquet", MeanColour())


@pytest.fixture
def judged(nano_eval):
    return nano_eval.model_copy(update={"judge": ModelSpec(architecture="nano-judge", weights="seed:9"), "candidates": 5})


def test_in_product_psnr_by_hand():
    truth = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, 2:4] = True
    edit = torch.where(mask[:, None], truth + 10, truth * 0)  # wrong all over outside, ten off inside
    assert in_product_psnr_db(edit, truth, mask) == pytest.approx(20 * math.log10(25.5))
    grey = flat_grey(truth, mask)
    assert grey[0, 0, 2, 0] == 128 and grey[0, 0, 0, 0] == 100
    with pytest.raises(ValueError, match="empty"):
        in_product_psnr_db(edit, truth, mask & False)


def test_gap_closed():
    assert gap_closed(20, 10, 30) == 0.5 and gap_closed(8, 10, 30) < 0
    with pytest.raises(ValueError, match="no gap"):
        gap_closed(20, 30, 30)


def test_the_reference_is_cut_out_and_pasted_into_each_box():
    reference = torch.full((3, 20, 30), 240, dtype=torch.uint8)
    reference[:, 5:15, 10:20] = torch.tensor([200, 10, 10], dtype=torch.uint8)[:, None, None]
    assert cut_out(reference).shape == (4, 10, 10)
    source = torch.full((3, 3, 32, 32), 60, dtype=torch.uint8)
    mask = torch.zeros(3, 32, 32, dtype=torch.bool)
    mask[0, 4:12, 6:14] = mask[1, 10:26, 10:18] = True
    out = pasted(source, mask, reference)
    assert (out[0, 0, 4:12, 6:14] == 200).all() and torch.equal(out[2], source[2])
    assert (out[1, 0, 14:22, 10:18] == 200).all() and (out[1, 0, 10:13] == 60).all(), "aspect kept, in the middle of a tall box"
    outside = ~mask[:, None].expand_as(source)
    assert torch.equal(out[outside], source[outside])
    alpha = torch.cat([reference, torch.zeros(1, 20, 30, dtype=torch.uint8)])
    alpha[3, 5:15, 10:20] = 255
    assert torch.equal(pasted(source, mask, alpha), out)
    assert cut_out(torch.full((3, 4, 4), 9, dtype=torch.uint8)).shape == (4, 4, 4)


def test_square_crops_hold_the_ground_and_stay_in_the_frame():
    video = torch.arange(24 * 32, dtype=torch.float32).view(1, 1, 24, 32).div(3.2).to(torch.uint8).expand(2, 3, 24, 32)
    mask = torch.zeros(2, 24, 32, dtype=torch.bool)
    mask[0, 0:4, 20:32] = True
    crops = square_crops(video, mask, 12)
    assert crops.shape == (1, 3, 12, 12)
    torch.testing.assert_close(crops[0, 0], video[0, 0, 0:12, 20:32] / 255)
    with pytest.raises(ValueError, match="no frame has a mask"):
        square_crops(video, mask & False, 12)


def test_candidates_are_the_same_for_the_same_clip_and_hold_the_look_alikes():
    groups = {f"p{i:02d}": "a" if i < 12 else "b" for i in range(60)} | {"lone": None}
    chosen = choose_candidates(groups, "clip", "p00", "p40", 20)
    assert chosen == choose_candidates(dict(reversed(groups.items())), "clip", "p00", "p40", 20)
    assert len(set(chosen.products)) == 20 and {"p00", "p40"} <= set(chosen.products) and chosen.look_alikes == 9
    assert choose_candidates(groups, "other", "p00", None, 20).products != chosen.products
    places = [choose_candidates(groups, f"clip{i}", "p00", None, 20).products.index("p00") for i in range(200)]
    assert 8 < np.mean(places) < 11, "the place says nothing about which is right"
    assert choose_candidates(groups, "clip", "lone", None, 20).look_alikes == 0
    few = choose_candidates({"a": "g", "b": "g"}, "clip", "a", None, 20)
    assert sorted(few.products) == ["a", "b"] and few.look_alikes == 1
    with pytest.raises(ValueError, match="no other product"):
        choose_candidates({"a": None}, "clip", "a", None, 20)
    with pytest.raises(ValueError, match="not in the gallery"):
        choose_candidates(groups, "clip", "gone", None, 20)


def test_a_video_shows_the_nearest_product(gallery):
    mask = torch.ones(2, 8, 8, dtype=torch.bool)
    videos = {n: torch.tensor(c, dtype=torch.uint8)[None, :, None, None].expand(2, 3, 8, 8) for n, c in COLOURS.items()}
    assert shown_products(MeanColour(), videos, mask, gallery, choose_candidates(gallery.look_alikes, "c", "red", "yellow", 5)) == {
        name: name for name in COLOURS
    }


def test_scores_against_the_truth(known_row, judged, gallery, histogram, mean_colour):
    scores = score_edit(known_row(noise=2, reference=picture(COLOURS["red"])), judged, mean_colour, histogram, MeanColour(), gallery)
    value = {name: score.value for name, score in scores.items()}
    psnr = [value["in_product_psnr_db" + s] for s in ("_ceiling", "", "_no_reference", "_base")]
    assert psnr == sorted(psnr, reverse=True) and value["in_product_psnr_db_ceiling"] == pytest.approx(20 * math.log10(255))
    assert {f"in_product_psnr_db_{s}" for s in ("composited", "wrong_reference", "source", "pasted", "flat")} <= set(value)
    assert value["in_product_psnr_db_pasted"] > 40, "the reference is the very colour of the truth"
    expected = {"": 1, "_truth": 1, "_base": 0, "_source": 0, "_pasted": 1, "_wrong_reference": 0}
    assert {s: value[f"identity_top1{s}[mean-colour]"] for s in expected} == expected
    assert value["identity_wrong_reference_shown[mean-colour]"] == 1
    main, context = scores["identity_top1[mean-colour]"], scores["identity_top1_base[mean-colour]"]
    assert (main.direction, context.direction) == ("higher", "context") and main.extractor == MeanColour.name
    assert main.note == "nearest of 5 products, 1 of them look-alikes of the right one"
    assert scores["in_product_psnr_db"].direction == "higher" and scores["vae_psnr_db"].direction == "context"


def test_what_is_not_there_is_not_scored(edits_row, known_row, nano_eval, judged, gallery, histogram, mean_colour):
    plain = score_edit(edits_row(), nano_eval, mean_colour, histogram)
    assert not [n for n in plain if n.startswith(("in_product", "identity"))] and plain["vae_psnr_db"].value > 40
    no_baselines = known_row(base=[], no_reference=[], wrong_reference=[], wrong_product_id=None)
    scores = score_edit(no_baselines, judged, mean_colour, histogram, MeanColour(), gallery)
    assert "in_product_psnr_db_base" not in scores and "identity_wrong_reference_shown[mean-colour]" not in scores
    assert scores["identity_top1[mean-colour]"].value == 1
    for row, given in ((edits_row(), gallery), (known_row(), None), (known_row(product_id="unheard"), gallery)):
        lost = score_edit(row, judged, mean_colour, histogram, MeanColour(), given)["identity_top1[mean-colour]"]
        assert lost.value is None and lost.note


@pytest.fixture
def report(known_row, judged, gallery, histogram, mean_colour) -> Report:
    rows = [known_row(f"c{i}", seed=i) for i in range(4)] + [known_row("miss", base=[])]
    rows[-1]["raw"] = rows[0]["base"]
    return aggregate("refine", [score_row(row, judged, mean_colour, histogram, MeanColour(), gallery) for row in rows], judged)


def test_the_report_has_the_interval_the_gap_and_the_score(report):
    identity, gap, score = (report.family(name) for name in ("identity_top1", "gap_closed", "weighted_score"))
    assert identity.value == 0.8 and identity.low < 0.8 < identity.high and (identity.low, identity.high) == bootstrap_interval([1, 1, 1, 1, 0])
    edit, base, ceiling = (report.metric("in_product_psnr_db" + s).value for s in ("", "_base", "_ceiling"))
    assert gap.value == pytest.approx((edit - base) / (ceiling - base)) and gap.direction == "higher"
    assert score.name == "weighted_score[stand-in]" and "without fvd (15%)" in score.note
    assert any("judge extractor nano-judge" in w for w in report.warnings)
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_gate_on_identity_takes_the_reports_judge(report):
    verdict = hold(report, [Threshold(metric=m, op=">", value=0.5) for m in ("identity_top1", "identity_top1[mean-colour]", "gap_closed")])
    assert [line.got is not None for line in verdict.lines] == [True] * 3 and verdict.lines[0].got == 0.8
    assert hold(report, [Threshold(metric="weighted_score", op=">", value=0.0)]).lines[0].got is None, "a stand-in's is not the survey's"


def test_the_teacher_stands_in_its_context(report, tmp_path):
    table = context_table(report)
    assert [row[0] for row in table.rows] == ["identity top-1", "in-product PSNR, dB"]
    cells = dict(zip(table.head[1:], table.rows[0][1:], strict=True))
    assert cells["teacher"].startswith("80% (") and cells["base"] == "0%" and cells["flat grey"] == "-" and cells["truth round trip"] == "100%"
    assert "-" not in table.rows[1][1:] and any("wrong reference's product" in note for note in table.notes)
    for text in (report_markdown(report), report_html(report, None, None, tmp_path / "r.html").read_text()):
        assert text.index("Metrics") < text.index("The teacher in context")


def test_no_context_without_truth_or_judge(edits_row, nano_eval, histogram, mean_colour):
    plain = aggregate("verify", [score_row(edits_row(), nano_eval, mean_colour, histogram)], nano_eval)
    assert context_table(plain) is None and "in context" not in report_markdown(plain)


def test_weighted_score():
    goals = {part.metric: part.goal for part in PARTS}
    assert sum(part.weight for part in PARTS) == pytest.approx(1)
    assert weighted_score(goals) == ("weighted_score", pytest.approx(1), "survey 9.6: shares of the goals, weighted")
    assert weighted_score({m: g * (0.5 if m == "fvd" else 2) for m, g in goals.items()}).value == pytest.approx(1), "nothing is earned beyond a goal"
    assert weighted_score(goals | {"fvd": 200.0}).value == pytest.approx(0.925)
    half = weighted_score({"clip_i[nano-openclip]": 0.425, "bg_ssim": -1.0})
    assert half.name == "weighted_score[nano]" and half.value == pytest.approx(0.3 * 0.5 / 0.35) and "dino_i (20%)" in half.note
    assert weighted_score({"frame_motion_raw": 1.0}) is None


def test_the_interval_narrows_and_repeats():
    low, high = bootstrap_interval([1.0] * 90 + [0.0] * 10)
    assert 0.82 < low < 0.87 and 0.93 < high < 0.97 and bootstrap_interval([1.0, 1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])


def test_the_truth_is_in_the_pictures(known_row, edits_row, failed_row, tmp_path):
    rows = [known_row("a", side=64), edits_row("b", side=64), failed_row("lost", "out of memory")]
    with Image.open(contact_sheet(rows, tmp_path / "sheet.png", title="refine", total=200)) as sheet:
        assert 1750 <= sheet.width <= 1850 and sheet.height > 600
    wide = {**known_row("a", side=64)}
    for name in ("source", "mask", "raw", "composited", "round_trip", "truth", "truth_mask", "base"):
        wide[name] = [_widened(p) for p in wide[name]]
    with Image.open(contact_sheet([wide] * 3, tmp_path / "wide.png")) as sheet:
        assert 1400 <= sheet.width <= 1850
    assert side_by_side(rows[0]).shape[3] == 5 * 128 + 16 and side_by_side(rows[1]).shape[3] == 4 * 128 + 12


def _widened(data: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((224, 128)).save(file, "PNG")
    return file.getvalue()
