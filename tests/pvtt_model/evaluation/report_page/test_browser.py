"""The page driven in Chromium: keys, players in step, sorting, filtering, downloads, themes, phone width. Wants playwright and Debian's chromium."""

from __future__ import annotations

import json

import pytest

from pvtt_model.evaluation.report import Report
from pvtt_model.evaluation.report_html import report_html
from pvtt_model.evaluation.report_page.beside import Beside, Past

pytestmark = pytest.mark.slow

#: Where the bar stands in the first video, in its own widths of 4 px.
BAR = """card => {
  const context = Object.assign(document.createElement('canvas'), { width: 48, height: 1 }).getContext('2d');
  context.drawImage(card.querySelector('video'), 0, 16, 48, 1, 0, 0, 48, 1);
  const pixels = context.getImageData(0, 0, 48, 1).data;
  const light = [...Array(12).keys()].map(t => pixels[16 * t + 4] + pixels[16 * t + 8]);
  return light.indexOf(Math.max(...light));
}"""
STANDS = """at => [...document.querySelector('.card:has(video)').querySelectorAll('video')]
  .every(v => !v.seeking && Math.abs(v.currentTime - at) < 0.01)"""
TIMES = "card => [...card.querySelectorAll('video')].map(v => v.currentTime)"


@pytest.fixture(scope="module")
def path(report, verdict, seen, tmp_path_factory):
    past = (Past("release", "01-02", "release a", {m.name: m for m in report.metrics}),)
    return report_html(report, verdict, None, tmp_path_factory.mktemp("page") / "report.html", Beside("gates/abc", seen, past))


@pytest.fixture
def page(browser, path):
    """The page at 1280 px; whatever it says on the console, or asks of a network, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None)
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert said == []


def column(page, index: int) -> list[str]:
    return page.eval_on_selector_all("#edits tbody tr", f"rows => rows.filter(r => !r.hidden).map(r => r.cells[{index}].textContent.trim())")


def test_players_of_a_card_keep_in_step(page) -> None:
    card = page.locator(".card:has(video)").first
    card.focus()
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelector('.card video')?.currentTime > 0.3")
    ahead = []
    for _ in range(20):  # over a loop or two of 1.5 s
        times = card.evaluate(TIMES)
        ahead.append(max(times) - min(times))
        page.wait_for_timeout(120)
    assert sorted(ahead)[-2] <= 1 / 8  # one sample may fall into the jump to the beginning
    page.keyboard.press("Space")
    assert card.evaluate("card => [...card.querySelectorAll('video')].every(v => v.paused)")
    page.keyboard.press("Home")
    for frame in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"() => document.querySelector('.card:has(video) output').textContent === 'frame {frame + 1} of 12'")
    page.wait_for_function(STANDS, arg=3.5 / 8)
    assert card.evaluate(TIMES) == pytest.approx([3.5 / 8] * 2, abs=1e-3)
    slider = card.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert card.locator("output").inner_text() == "frame 3 of 12"


def test_every_frame_shows_itself(page) -> None:
    """The bar of frame t begins at pixel 4 t."""
    card = page.locator(".card:has(video)").first
    card.focus()
    page.keyboard.press("Home")
    for frame in range(12):
        page.wait_for_function(STANDS, arg=(frame + 0.5) / 8)
        assert card.evaluate(BAR) == frame
        page.keyboard.press("ArrowRight")


def test_j_and_k_go_from_card_to_card(page) -> None:
    page.locator(".card").first.focus()
    for key, place in (("j", 2), ("j", 3), ("k", 2), ("k", 1), ("k", 1)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == f"edit-{place}"
    page.locator("#text").focus()
    page.keyboard.press("j")
    assert page.input_value("#text") == "j"


def test_the_table_sorts_and_filters(page) -> None:
    head = page.locator("#edits th", has=page.locator("code", has_text="clip_i[nano]")).first
    index = head.evaluate("th => th.cellIndex")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending" and page.locator("#edits th[aria-sort]").count() == 1
    up = column(page, index)
    assert [float(v) for v in up[:61]] == sorted(float(v) for v in up[:61]) and up[61:] == ["-"] * 3
    page.keyboard.press("Enter")
    down = column(page, index)
    assert head.get_attribute("aria-sort") == "descending" and down[:61] == up[:61][::-1] and down[61:] == ["-"] * 3
    page.select_option("#status", "missing")
    assert page.inner_text("#count") == "3 of 64 edits" and set(column(page, 1)) == {"lost0", "lost1", "lost2"}
    page.select_option("#status", "")
    page.fill("#text", "LOST1")
    assert page.inner_text("#count") == "1 of 64 edits" and column(page, 1) == ["lost1"]
    page.locator("#columns summary").click()
    page.locator("#columns input[value='3']").uncheck()
    assert page.locator("#edits th").nth(3).is_hidden() and page.locator("#edits tbody td:nth-child(4):visible").count() == 0


def test_downloads_are_the_report(page, report) -> None:
    for kind in ("JSON", "CSV", "Parquet"):
        with page.expect_download() as waiting:
            page.get_by_role("link", name=kind).click()
        data = waiting.value.path().read_bytes()
        if kind == "JSON":
            assert waiting.value.suggested_filename == "report-refine.json" and Report.model_validate(json.loads(data)) == report
        assert data[:4] == {"JSON": b'{"st', "CSV": b"clip", "Parquet": b"PAR1"}[kind]


def test_focus_is_seen_and_the_theme_is_the_readers(page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Gate"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(paper) != light
    page.click("#theme")
    assert page.inner_text("#theme") == "theme: light" and page.evaluate(paper) == light
    page.click("#theme")
    assert page.inner_text("#theme") == "theme: dark" and page.evaluate(paper) != light


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_no_width_scrolls_the_page_sideways(page, width) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for details in page.locator("details").all():
        details.evaluate("d => { d.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.eval_on_selector_all(
        ".card, .scroll, figure, section", "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert wide == 0
