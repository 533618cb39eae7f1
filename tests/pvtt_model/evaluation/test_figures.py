from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pvtt_model.evaluation.contact_sheet import contact_sheet
from pvtt_model.evaluation.gate import judge
from pvtt_model.evaluation.loss_curve import loss_curve, running_mean
from pvtt_model.evaluation.pictures import PAPER, letterboxed
from pvtt_model.evaluation.report import aggregate
from pvtt_model.evaluation.report_html import report_html
from pvtt_model.evaluation.report_markdown import report_markdown
from pvtt_model.evaluation.score import score_row
from pvtt_model.evaluation.side_by_side import side_by_side
from pvtt_model.specs import Threshold

HOSTILE = "<script>alert('x')</script> | \" & red"


def test_contact_sheet_is_legible_in_size(edits_row, failed_row, tmp_path) -> None:
    rows = [edits_row("a", side=64), edits_row("b", side=64, seed=1), failed_row("lost", "out of memory")]
    path = contact_sheet(rows, tmp_path / "sheet.png", title="verify")
    with Image.open(path) as sheet:
        assert 1200 <= sheet.width <= 1600 and sheet.height > 1000
        pixels = np.array(sheet.convert("RGB"))
    assert len(np.unique(pixels @ np.array([65536, 256, 1]))) > 1000 and pixels.std() > 20
    again = contact_sheet(rows, tmp_path / "again.png", title="verify")
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], tmp_path / "none.png")


@pytest.mark.parametrize(
    ("size", "box", "inside"),
    [
        ((64, 48), (128, 96), (0, 0, 128, 96)),
        ((48, 64), (128, 96), (28, 0, 72, 96)),
        ((128, 32), (64, 64), (0, 24, 64, 16)),
        ((480, 832), (157, 91), (52, 0, 52, 91)),
        ((832, 480), (157, 91), (0, 0, 157, 91)),  # 90.6: no bar of a pixel
    ],
)
def test_letterboxed(size, box, inside) -> None:
    """A red picture: where it lies, by its left, top, width and height, and paper everywhere else."""
    pixels = np.array(letterboxed(Image.new("RGB", size, (255, 0, 0)), *box))
    left, top, width, height = inside
    red = (pixels == (255, 0, 0)).all(-1)
    assert pixels.shape == (box[1], box[0], 3) and red.sum() == width * height and red[top : top + height, left : left + width].all()
    assert (pixels[~red] == PAPER).all()


def test_side_by_side_has_even_sides(edits_row, failed_row) -> None:
    frames = side_by_side(edits_row(side=32))
    assert frames.shape == (5, 3, 128, 4 * 128 + 12) and frames.dtype.is_floating_point is False
    odd = side_by_side(edits_row(side=33), "raw")
    assert odd.shape[2] % 2 == 0 and odd.shape[3] % 2 == 0
    with pytest.raises(ValueError, match="out of memory"):
        side_by_side(failed_row("lost", "out of memory"))


def test_loss_curve(tmp_path) -> None:
    records = [{"step": i, "loss": 1 / (i + 1), "lr": 1e-4 * i, "grad_norm": 1.0 if i != 3 else -1.0} for i in range(20)]
    records[5]["loss"] = float("nan")
    path = loss_curve(records, tmp_path / "loss.png", title="verify")
    with Image.open(path) as picture:
        assert picture.size == (1200, 1000) and np.array(picture.convert("L")).std() > 5
    assert loss_curve(records, tmp_path / "again.png", title="verify").read_bytes() == path.read_bytes()
    loss_curve([{"step": 0, "loss": 1.0}], tmp_path / "one.png")
    assert running_mean([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    with pytest.raises(ValueError, match="at least one step"):
        loss_curve([], tmp_path / "none.png")
    with pytest.raises(ValueError, match="needs 'step' and 'loss'"):
        loss_curve([{"loss": 1.0}], tmp_path / "none.png")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.append(tag)


def test_html_escapes_and_needs_nothing_else(edits_row, failed_row, nano_eval, histogram, mean_colour, tmp_path) -> None:
    rows = [edits_row("a", prompt=HOSTILE), failed_row("<b>k</b>", HOSTILE)]
    edits = [score_row(row, nano_eval, mean_colour, histogram) for row in rows]
    report = aggregate("verify", edits, nano_eval, warnings=[HOSTILE])
    verdict = judge(report, [Threshold(metric="<img src=x>", op=">", value=0.0), Threshold(metric="bg_psnr_db", op=">", value=1.0)])
    sheet = contact_sheet(rows, tmp_path / "sheet.png")
    html = report_html(report, verdict, sheet, tmp_path / "report.html").read_text()
    tags = Tags()
    tags.feed(html)
    assert tags.seen.count("script") == 1 and "b" not in tags.seen and tags.seen.count("img") == 1  # the page's own script
    assert "&lt;script&gt;" in html and "prefers-color-scheme: dark" in html and "width=device-width" in html
    assert not re.search(r"(src|href)='(?!data:|#)", html) and "http:" not in html and "https:" not in html
    inside = base64.b64decode(re.search(r"base64,([^']+)'", html).group(1))
    assert inside == sheet.read_bytes()
    assert "colour-histogram" in html and "not measured" in html
    markdown = report_markdown(report, verdict)
    assert "<script" not in markdown and "&lt;script&gt;" in markdown
    assert "`bg_psnr_db`" in markdown
    (tmp_path / "no.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="not a PNG"):
        report_html(report, None, tmp_path / "no.png", tmp_path / "x.html")
