"""The page as a file: self-contained, escaped, within its budget, and its downloads equal to the report."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import re
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest

from pvtt_model.evaluation.report import Report
from pvtt_model.evaluation.report_html import report_html
from pvtt_model.evaluation.report_page import downloads as report_downloads
from pvtt_model.evaluation.report_page.beside import Beside, Origin, Past
from pvtt_model.evaluation.report_page.downloads import columns_of
from pvtt_model.page import table, write_page


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def beside(report, seen) -> Beside:
    past = (Past("stage", "base", "stage base", {m.name: m for m in report.metrics}),)
    return Beside(
        "gates/abc", seen, past, (Origin("edits/1", "2026-01-01 00:00:00", "0123"),), {"torch": "2"}, {"edit": {"seed": 1}}, "pvtt get '*.mp4'"
    )


@pytest.fixture(scope="module")
def html(report, verdict, beside, tmp_path_factory) -> str:
    return report_html(report, verdict, None, tmp_path_factory.mktemp("page") / "report.html", beside).read_text()


def test_nothing_is_fetched_and_only_its_own_script_runs(html) -> None:
    page = Page(html)
    links = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "poster") if name in attrs]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert "https:" not in html and "http:" not in html and not page.of("link") and not page.of("iframe")
    policy = next(attrs["content"] for attrs in page.of("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL).group(1)
    expected = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{expected}'" in policy and "connect-src" not in policy
    assert len(page.of("script")) == 1 and not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_hostile_prompts_stay_text(html, report) -> None:
    page = Page(html)
    assert "alert(1)" not in "".join(str(attrs) for _, attrs in page.tags) and len(page.of("b")) == 0
    for edit in report.per_edit[:3]:
        assert page.text.count(edit.prompt) >= 2  # in its card and in the table
    assert not re.search(r">\s*(nan|NaN|inf|Infinity|None)\s*<", html)


def test_what_is_lost_stands_before_the_numbers(html) -> None:
    sections = ("gate", "metrics", "sanity-checks", "groups", "trend", "worst-edits-first", "each-edit", "lineage", "settings")
    first = ("61 of 64 edits: 3 missing", "1 of 2 sanity checks failed", "Gate missed: 1 of 2", "class='warnings'")
    order = [*first, *(f"id='{name}'" for name in sections)]
    at = [html.index(words) for words in order]
    assert at == sorted(at)
    assert "edits/1" in html and "torch 2" in html and "&quot;seed&quot;: 1" in html


def test_every_column_can_be_sorted_by_its_own_value(html, report) -> None:
    edits = html[html.index("<table id='edits'>") :]
    heads = re.findall(r"<th scope='col'[^>]*>", edits[: edits.index("</thead>")])
    groups, metrics = columns_of(report)
    assert len(heads) == 6 + len(groups) + len(metrics) == edits[: edits.index("</thead>")].count("class='sort'")
    rows = re.findall(r"<tr data-status='(\w+)'>(.*?)</tr>", edits, re.DOTALL)
    assert [status for status, _ in rows].count("missing") == 3 and len(rows) == 64
    for _, row in rows:
        clip = re.search(r"<code>(\w+)</code>", row).group(1)
        edit = next(e for e in report.per_edit if e.clip_key == clip)
        keys = re.findall(r"data-v='([^']*)'", row)[1:]
        assert len(keys) == len(metrics)
        values = [edit.scores[name].value if name in edit.scores else None for name in metrics]
        assert [float(key) if key else None for key in keys] == values


def test_the_videos_keep_to_the_budget_and_say_what_was_left_out(report, verdict, beside, html, tmp_path) -> None:
    one = next(iter(beside.seen.values()))
    assert html.count("<video") == 2 * 61 and "The videos of all 61 edits" in html
    budget = 5 * (one.bytes * 4 // 3) + 10
    small = report_html(report, verdict, None, tmp_path / "small.html", beside, budget).read_text()
    assert small.count("<video") == 2 * 5
    assert "The videos of the 5 worst edits are in this page, those of 56 edits were left out" in small
    assert "<code>pvtt get &#x27;*.mp4&#x27;</code>" in small
    inside = sum(len(link) for link in re.findall(r"(?:src|poster)='(data:[^']*)'", small))
    assert inside < budget + 5 * 5 * 40  # the links' heads and base64's padding
    none = report_html(report, verdict, None, tmp_path / "none.html", beside, 0).read_text()
    assert "<video" not in none and "The videos of 61 edits are not in this page" in none


def downloads(html: str) -> dict[str, bytes]:
    return {a["download"]: base64.b64decode(a["href"].split(",")[1]) for a in Page(html).of("a") if "download" in a}


def test_a_large_report_is_packed(report, monkeypatch) -> None:
    monkeypatch.setattr(report_downloads, "MOST_PLAIN", 1000)
    found = report_downloads.downloads_html(report)
    (packed,) = (data for name, data in downloads(found).items() if name == "report-refine.json.gz")
    assert Report.model_validate_json(gzip.decompress(packed)) == report and "kB), gzip" in found


def test_downloads_equal_the_report(html, report) -> None:
    files = downloads(html)
    assert set(files) == {"edits-refine.csv", "edits-refine.parquet", "report-refine.json"}
    assert Report.model_validate_json(files["report-refine.json"]) == report
    rows = list(csv.DictReader(io.StringIO(files["edits-refine.csv"].decode())))
    parquet = pq.read_table(io.BytesIO(files["edits-refine.parquet"]))
    typed = parquet.to_pylist()
    groups, metrics = columns_of(report)
    assert len(rows) == len(typed) == 64 and list(rows[0]) == parquet.column_names
    for edit, text, value in zip(report.per_edit, rows, typed, strict=True):
        scores = [edit.scores[name].value if name in edit.scores else None for name in metrics]
        assert [float(text[name]) if text[name] else None for name in metrics] == scores == [value[name] for name in metrics]
        facts = (edit.clip_key, edit.reference_key, edit.status, edit.reason)
        assert tuple(value[name] for name in ("clip_key", "reference_key", "status", "reason")) == facts
        assert value["prompt"] == edit.prompt and [value[f"group:{g}"] for g in groups] == [edit.groups.get(g) for g in groups]
    assert rows[2]["prompt"] == "'=HYPERLINK(1)"  # a spreadsheet would run it
    assert parquet.schema.metadata[b"pvtt.stage"] == b"refine"


def test_an_old_report_still_has_its_page(old_report, tmp_path) -> None:
    html = report_html(old_report, None, None, tmp_path / "old.html").read_text()
    assert "61 of 61 edits" in html and "No sanity check is in this report" in html and "there is no trend yet" in html
    assert "id='groups'" not in html and "<video" not in html


def test_a_page_without_a_script_lets_none_run(tmp_path) -> None:
    html = write_page(tmp_path / "card.html", "<t>", [table(["a"], [["<!--n-->1"]])]).read_text()
    assert "script-src" not in html and "<script" not in html and "<title>&lt;t&gt;</title>" in html and "<td class='n'>1</td>" in html
    with pytest.raises(ValueError, match="end tag"):
        write_page(tmp_path / "x.html", "t", [], script="'</script>'")
