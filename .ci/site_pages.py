"""A hook of mkdocs: README, its Chinese one, changes, log and licence as pages of the site, though they lie outside docs/.

Links are written for the repository, so that they work where it is looked at; here alone they are turned to where the site has the page:
`docs/edit.md` of the README becomes `edit.md`, `../README.md` of a page in docs/ becomes `index.md`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
#: A file of the repository, as the site names it. README.md of a folder would be its index; so the English one is named so.
PAGES = {"README.md": "index.md", "README.zh.md": "README.zh.md", "LOG.md": "LOG.md", "CHANGELOG.md": "CHANGELOG.md", "LICENSE": "LICENSE.txt"}
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside docs/."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns the links of a page to the site's own names."""
    at = page.file.src_uri
    outside = {site: name for name, site in PAGES.items()}
    own = outside.get(at, f"{DOCS}/{at}")
    return LINK.sub(lambda m: m[1] + turned(m[2], own, at) + m[3], markdown)


def turned(link: str, own: str, at: str) -> str:
    """The link `link` of the repository's file `own` as it has to be in the site's page `at`; foreign ones and anchors stay."""
    target, mark, anchor = link.partition("#")
    if not target or "://" in target or target.startswith("mailto:"):
        return link
    place = posixpath.normpath(posixpath.join(posixpath.dirname(own), target))
    if place in PAGES:
        page = PAGES[place]
    elif place.startswith(f"{DOCS}/"):
        page = place.removeprefix(f"{DOCS}/")
    else:
        return link  # not in the site: mkdocs warns, and strict is an error
    return posixpath.relpath(page, posixpath.dirname(at) or ".") + mark + anchor
