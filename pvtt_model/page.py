"""One HTML page that needs nothing else: pictures inside, light and dark, narrow screens. What reports and data cards share.

Cells and bodies are HTML already: whoever writes them escapes.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #18181b; --pale: #60606b; --paper: #ffffff; --panel: #f4f4f5; --rule: #d8d8dd;
  --good: #15703c; --bad: #b42318; --warn: #fff4d6; --bar: #4f7cc9; }
@media (prefers-color-scheme: dark) { :root { --ink: #ededf0; --pale: #a1a1ab; --paper: #17171a; --panel: #222226; --rule: #3a3a41;
  --good: #6ad08f; --bad: #ff8a7d; --warn: #3d3210; --bar: #7aa2e8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1440px; padding: 16px; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 8px 0; } h2 { font-size: 1.15rem; margin: 28px 0 8px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; min-width: 100%; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { background: var(--panel); white-space: nowrap; } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-family: ui-monospace, monospace; font-size: 0.9em; } .pale { color: var(--pale); }
td.prompt { min-width: 180px; overflow-wrap: anywhere; }
.pass { color: var(--good); font-weight: 600; } .miss { color: var(--bad); font-weight: 600; }
ul.warnings { list-style: none; padding: 0; margin: 12px 0; }
ul.warnings li { background: var(--warn); border-radius: 6px; padding: 8px 12px; margin: 6px 0; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--rule); border-radius: 6px; }
td.bar { min-width: 160px; } td.bar div { background: var(--bar); height: 0.8em; margin-top: 0.35em; border-radius: 2px; }
@media (max-width: 600px) { body { padding: 10px; font-size: 15px; } th, td { padding: 5px 7px; } }
"""


def write_page(path: str | Path, title: str, body: Sequence[str]) -> Path:
    """The page of `body` (HTML) under `title` (text); returns its path."""
    meta = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head = f"<!doctype html>\n<html lang='en'><head>{meta}<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
    path = Path(path)
    path.write_text(head + "\n".join(body) + "\n</body></html>\n", encoding="utf-8")
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[str]], escaped: bool = False) -> str:
    """escaped: the head's cells are HTML too. A cell that starts with a class comment (<!--n-->) gets that class."""
    top = "".join(f"<th>{h if escaped else escape(h)}</th>" for h in head)
    return f"<div class='scroll'><table><tr>{top}</tr>" + "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows) + "</table></div>"


def number(text: str) -> str:
    """A cell whose text stands right."""
    return "<!--n-->" + escape(text)


def bar(share: float) -> str:
    """A cell with a bar of `share`, 0 to 1, of its width."""
    return f"<!--bar--><div style='width:{100 * share:.1f}%'></div>"


def warnings(said: Sequence[str]) -> str:
    return "<ul class='warnings'>" + "".join(f"<li>{escape(w)}</li>" for w in said) + "</ul>" if said else ""


def picture(path: str | Path, alt: str) -> str:
    """A PNG inside the page. Raises ValueError for another kind of file."""
    data = Path(path).read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"picture {path} is not a PNG. Save it as one.")
    return f"<img alt='{escape(alt, quote=True)}' src='data:image/png;base64,{base64.b64encode(data).decode()}'>"


def _cell(html: str) -> str:
    for name in ("n", "prompt", "bar"):
        mark = f"<!--{name}-->"
        if html.startswith(mark):
            return f"<td class='{name}'>{html.removeprefix(mark)}</td>"
    return f"<td>{html}</td>"
