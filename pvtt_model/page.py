"""One HTML page that needs nothing else: pictures inside, light and dark, narrow screens. What reports and data cards share.

Cells and bodies are HTML already: whoever writes them escapes. Should one forget, the page's policy still lets no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

_LIGHT = (
    "--ink: #18181b; --pale: #5b5b66; --paper: #ffffff; --panel: #f4f4f5; --rule: #d8d8dd; --good: #15703c; --bad: #b42318; --open: #8a5a00; "
    "--warn: #fff4d6; --bar: #3f6bb8; --focus: #1d4ed8;"
)
_DARK = (
    "--ink: #ededf0; --pale: #a8a8b3; --paper: #17171a; --panel: #222226; --rule: #3a3a41; --good: #6ad08f; --bad: #ff8a7d; --open: #e9b949; "
    "--warn: #3d3210; --bar: #7aa2e8; --focus: #9cc0ff;"
)
#: <html data-theme='light|dark'> is the reader's own choice and goes before the system's.
STYLE = f"""
:root {{ color-scheme: light; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ color-scheme: dark; {_DARK} }} }}
:root[data-theme=dark] {{ color-scheme: dark; {_DARK} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1440px; padding: 16px; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.6rem; margin: 8px 0; overflow-wrap: anywhere; }} h2 {{ font-size: 1.15rem; margin: 28px 0 8px; }}
.scroll {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: 0.9rem; min-width: 100%; }}
th, td {{ text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--rule); vertical-align: top; }}
th {{ background: var(--panel); white-space: nowrap; }} td.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
code {{ font-family: ui-monospace, monospace; font-size: 0.9em; }} .pale {{ color: var(--pale); }}
td.prompt {{ min-width: 180px; overflow-wrap: anywhere; }} td.dir {{ white-space: nowrap; }}
.pass {{ color: var(--good); font-weight: 600; }} .miss {{ color: var(--bad); font-weight: 600; }} .open {{ color: var(--open); font-weight: 600; }}
.pass, .miss, .open {{ white-space: nowrap; }} td small {{ display: block; color: var(--pale); }} td small.miss {{ color: var(--bad); }}
ul.warnings {{ list-style: none; padding: 0; margin: 12px 0; }}
ul.warnings li {{ background: var(--warn); border-radius: 6px; padding: 8px 12px; margin: 6px 0; overflow-wrap: anywhere; }}
img {{ display: block; max-width: 100%; height: auto; border: 1px solid var(--rule); border-radius: 6px; }}
td.bar {{ min-width: 160px; }} td.bar div {{ background: var(--bar); height: 0.8em; margin-top: 0.35em; border-radius: 2px; }}
@media (max-width: 600px) {{ body {{ padding: 10px; font-size: 15px; }} th, td {{ padding: 5px 7px; }} }}
"""
_CLASSES = ("n", "prompt", "bar", "dir")


def write_page(path: str | Path, title: str, body: Sequence[str], style: str = "", script: str = "") -> Path:
    """The page of `body` (HTML) under `title` (text); returns its path. style, script: the page's own, beside STYLE.

    Its content security policy allows styles, data: links, and the one script by its hash: nothing is fetched, nothing else runs.
    """
    if "</script" in script.lower() or "</style" in style.lower():
        raise ValueError("the page's script or style holds its own end tag; write it in two pieces.")
    csp = ["default-src 'none'", "img-src data:", "media-src data:", "style-src 'unsafe-inline'", "base-uri 'none'", "form-action 'none'"]
    if script:
        script = f"\n{script.strip()}\n"
        csp.append(f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(csp)}">'
    meta = f"<meta charset='utf-8'>{policy}<meta name='viewport' content='width=device-width, initial-scale=1'>"
    head = f"<!doctype html>\n<html lang='en'><head>{meta}<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n<body>\n"
    end = f"\n<script>{script}</script>" if script else ""
    path = Path(path)
    path.write_text(head + "\n".join(body) + end + "\n</body></html>\n", encoding="utf-8", newline="\n")
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[str]], escaped: bool = False) -> str:
    """escaped: the head's cells are HTML too. A cell that starts with a class comment (<!--n-->) gets that class. It scrolls inside itself."""
    top = "".join(f"<th scope='col'>{h if escaped else escape(h)}</th>" for h in head)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<div class='scroll' tabindex='0'><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"


def number(text: str) -> str:
    """A cell whose text stands right."""
    return number_html(escape(text))


def number_html(html: str) -> str:
    """The same of HTML."""
    return "<!--n-->" + html


def bar(share: float) -> str:
    """A cell with a bar of `share`, 0 to 1, of its width."""
    return f"<!--bar--><div style='width:{100 * share:.1f}%'></div>"


def marked(good: bool | None, text: str = "") -> str:
    """Text as good, bad, or (None) open: by its sign and its colour; without text the sign alone, named for who cannot see it."""
    kind, sign, word = ("open", "?", "open") if good is None else ("pass", "✓", "good") if good else ("miss", "✗", "bad")
    if text:
        return f"<span class='{kind}'><span aria-hidden='true'>{sign}</span> {escape(text)}</span>"
    return f"<span class='{kind}' role='img' aria-label='{word}'>{sign}</span>"


def warnings(said: Sequence[str]) -> str:
    return "<ul class='warnings'>" + "".join(f"<li>{escape(w)}</li>" for w in said) + "</ul>" if said else ""


def picture(path: str | Path, alt: str) -> str:
    """A PNG inside the page. Raises ValueError for another kind of file."""
    data = Path(path).read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"picture {path} is not a PNG. Save it as one.")
    return f"<img alt='{escape(alt, quote=True)}' src='data:image/png;base64,{base64.b64encode(data).decode()}'>"


def _cell(html: str) -> str:
    for name in _CLASSES:
        mark = f"<!--{name}-->"
        if html.startswith(mark):
            return f"<td class='{name}'>{html.removeprefix(mark)}</td>"
    return f"<td>{html}</td>"
