"""What the numbers were made from and with: artifacts, code, libraries, settings."""

from __future__ import annotations

import json
from html import escape

from pvtt_model.evaluation.report import Report
from pvtt_model.evaluation.report_page.beside import Beside
from pvtt_model.page import table


def lineage_html(beside: Beside) -> str:
    if not beside.lineage:
        return "<p class='pale'>Not gathered for this page; <code>pvtt artifacts lineage</code> shows it.</p>"
    rows = [[f"<code>{escape(o.name)}</code>", escape(o.created), f"<code>{escape(o.commit)}</code>"] for o in beside.lineage]
    libraries = ", ".join(f"{escape(name)} {escape(version)}" for name, version in sorted(beside.libraries.items()))
    return table(["artifact", "made (UTC)", "commit of the code"], rows) + (f"<p>Libraries: {libraries}.</p>" if libraries else "")


def settings_html(report: Report, beside: Beside) -> str:
    found = {"evaluate: which weights stood behind the numbers": report.extractors, **beside.settings}
    return "".join(f"<h3>{escape(title)}</h3><pre tabindex='0'>{escape(json.dumps(value, indent=1))}</pre>" for title, value in found.items())
