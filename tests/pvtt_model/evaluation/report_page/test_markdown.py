from __future__ import annotations

from pvtt_model.evaluation.report_markdown import report_markdown
from pvtt_model.evaluation.report_page.beside import Past


def test_the_markdown_begins_with_what_is_lost(report, verdict, old_report) -> None:
    past = (Past("stage", "base", "stage base", {m.name: m for m in report.metrics}),)
    text = report_markdown(report, verdict, past)
    lines = text.splitlines()
    assert lines[2] == "- bad: **61 of 64 edits: 3 missing. They are not in the means.**" and lines[3].startswith(
        "- bad: **1 of 2 sanity checks failed"
    )
    titles = [line for line in lines if line.startswith("## ")]
    assert titles == ["## Gate: missed", "## Sanity checks", "## Metrics", "## By category", "## By difficulty", "## Trend",
                      "## Edits that are not in the means"]  # fmt: skip
    assert "| stage base |" in text and "| **this report** |" in text and "> 40: **miss**" in text
    assert "<script" not in text and "<img" not in text and "<b>" not in text
    tables = [line for line in lines if line.startswith("|")]
    for block in text.split("\n\n"):
        rows = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block
    assert len(tables) > 20
    old = report_markdown(old_report)
    assert "## Sanity checks" not in old and "## Trend" not in old and "## By" not in old
