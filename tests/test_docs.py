"""The pages say what the code says: messages, commands, settings, variables, links; and the README's two languages are in step."""

from __future__ import annotations

import hashlib
import re
import runpy
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import reference
from pvtt_model.data.refusals import KINDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROOMS = ("cli", "flows", "infra", "pvtt_model", "tasks")
TROUBLE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
PAGES = sorted(DOCS.rglob("*.md"))
ENGLISH, CHINESE = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / "README.zh.md").read_text(encoding="utf-8")

SPAN = re.compile(r"(?<!`)(`{1,2})(?!`)\s?(.+?)\s?(?<!`)\1(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def source() -> str:
    """The code of every room, and the Makefile: a string that is written in several pieces stands on one line."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*files, ROOT / "Makefile"])
    return re.sub(r'(?<=[^"\n])"[ ]*\n\s*f?"(?!"")', "", text) + "\n"


def in_the_source(message: str) -> bool:
    """Whether one line of the source holds the message's fixed words, in order; '..' stands for what is filled in."""
    pieces = [piece.strip() for piece in re.split(r"\.{2,}", message) if len(piece.strip()) > 1]
    assert sum(map(len, pieces)) >= 6, f"'{message}' has no fixed words to look for"
    wanted, longest = re.compile(".*?".join(map(re.escape, pieces))), max(pieces, key=len)
    return any(wanted.search(line) for line in lines_with(longest))


def lines_with(words: str) -> Iterator[str]:
    text, at = source(), -1
    while (at := text.find(words, at + 1)) >= 0:
        yield text[text.rfind("\n", 0, at) + 1 : text.find("\n", at)]


def rows_of(section: str) -> list[list[str]]:
    """The cells of a section's table, head left out."""
    text = TROUBLE.partition(f"\n## {section}")[2].partition("\n## ")[0]
    assert text, f"docs/troubleshooting.md has no section '{section}'"
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def messages() -> Iterator[str]:
    for line in TROUBLE.splitlines():
        found = SPAN.match(line, 2) if line.startswith("- `") else None
        if found and found.end() == len(line):
            yield found[2]
    for row in rows_of("Clips refused"):
        yield from (found[2] for found in SPAN.finditer(row[1]))


def test_every_message_is_the_sources() -> None:
    found = list(messages())
    assert len(found) > 140
    gone = [message for message in found if not in_the_source(message)]
    assert not gone, "not in the source any more; correct docs/troubleshooting.md:\n" + "\n".join(gone)


def test_a_message_that_is_not_the_sources_is_found() -> None:
    assert in_the_source("no recipe '..'. ..") and not in_the_source("no receipt '..' was ever written here")
    assert not in_the_source("needs .. CPUs and .. elephants")


def test_every_refusal_is_explained() -> None:
    assert [row[0].strip("`") for row in rows_of("Clips refused")] and {row[0].strip("`") for row in rows_of("Clips refused")} == set(KINDS)
    assert set(KINDS) <= set(re.findall(r"^\| `(\w+)` \|", (DOCS / "run_on_your_clips.md").read_text(encoding="utf-8"), re.M))


def test_every_check_is_explained() -> None:
    """The names of checks that stand in the code as they are; those made of a stage's or model's name are given as `name ..`."""
    told = {found[2].partition(" ..")[0] for row in rows_of("Before a training") for found in SPAN.finditer(row[0])}
    named = set(re.findall(r'\bCheck\(\s*"([^"]+)"', source()))
    assert len(named) > 10 and named - told == set()
    assert all(f'"{name}' in source() for name in told)


def test_commands_and_settings_are_as_written_by_the_code(tmp_path: Path) -> None:
    reference.main(tmp_path)
    for page in ("commands.md", "settings.md"):
        same = (tmp_path / page).read_text() == (DOCS / "reference" / page).read_text()
        assert same, f"docs/reference/{page} is of older code. Write it anew: python -m cli.reference"


def shown_commands(text: str) -> Iterator[str]:
    """Commands of ours in code blocks and spans, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        if line.startswith("    "):
            found = re.match(r"\s+(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(pvtt .*)", line)
            if found:
                yield re.split(r"\s+#|\s{4,}", found[1])[0]
    yield from (found[2] for found in SPAN.finditer(joined) if found[2].startswith("pvtt "))


def test_commands_shown_are_there_with_their_options() -> None:
    known: dict[str, set[str]] = {}
    for part in (DOCS / "reference" / "commands.md").read_text().split("\n## ")[1:]:
        known[part.splitlines()[0]] = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", " ".join(re.findall(r"^\| `([^`]*)`", part, re.M)))) | {"--help"}
    groups = {name.rpartition(" ")[0] for name in known if name.count(" ") == 2}
    wrong = []
    for path in [ROOT / "README.md", *PAGES]:
        for line in shown_commands(path.read_text(encoding="utf-8")):
            words = re.sub(r"'[^']*'|\"[^\"]*\"", "X", line).split()
            name = next((n for n in (" ".join(words[:3]), " ".join(words[:2])) if n in known), None)
            if name is None and " ".join(words[:2]) not in groups:
                wrong.append(f"{path.name}: {line}: no such command")
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            wrong += [f"{path.name}: {line}: no option {o}" for o in sorted(options - known.get(name or "", options))]
    assert not wrong, "\n".join(wrong)


def test_every_variable_is_named() -> None:
    page = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    used = set(re.findall(r"\bPVTT_[A-Z_]*[A-Z]\b", source()))
    assert used == set(re.findall(r"\bPVTT_[A-Z_]*[A-Z]\b", page))


def pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(part)


def test_nav_names_every_page() -> None:
    nav = list(pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    outside = {"index.md", "README.zh.md", "LOG.md", "CHANGELOG.md"}  # .ci/site_pages.py makes them
    assert Counter(nav) == Counter([*outside, *(path.relative_to(DOCS).as_posix() for path in PAGES)])


def test_links_are_turned_to_the_sites_own_names() -> None:
    hook = runpy.run_path(str(ROOT / ".ci" / "site_pages.py"))
    for link, own, at, wanted in [
        ("docs/edit.md", "README.md", "index.md", "edit.md"),
        ("docs/deploy.md#security", "README.md", "index.md", "deploy.md#security"),
        ("LICENSE", "README.md", "index.md", "LICENSE.txt"),
        ("README.md", "README.zh.md", "README.zh.md", "index.md"),
        ("../README.md", "docs/edit.md", "edit.md", "index.md"),
        ("../training.md", "docs/reference/a.md", "reference/a.md", "../training.md"),
        ("https://ray.io", "README.md", "index.md", "https://ray.io"),
    ]:
        assert hook["turned"](link, own, at) == wanted


@pytest.mark.slow
def test_site_builds_and_fetches_nothing_from_elsewhere() -> None:
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted((ROOT / "site").rglob("*.html"))
    assert len(built) >= len(PAGES)
    for page in built:
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text(encoding="utf-8"))
        assert not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)], page


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(path.read_text(encoding="utf-8"))]
    gone = [link for link in links if link and "://" not in link and not (path.parent / link).exists()]
    assert not gone, f"{path.name} names what is not there: {gone}"


def code_blocks(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("    ")]


def test_readme_code_is_the_same_in_both_languages() -> None:
    assert code_blocks(CHINESE) == code_blocks(ENGLISH)


def test_readme_is_built_the_same_in_both_languages() -> None:
    """Headings by level, tables by rows, links, code spans and figures: what a translation keeps."""
    for what, pattern in {
        "headings": r"^#+(?= )",
        "rows and columns of tables": r"(?<=\|)[^|\n]*(?=\|)",
    }.items():
        count = [len(re.findall(pattern, text, re.M)) for text in (ENGLISH, CHINESE)]
        assert count[0] == count[1], f"README.md has {count[0]} {what}, README.zh.md {count[1]}. Bring the Chinese in step."
    assert re.findall(r"^#+(?= )", CHINESE, re.M) == re.findall(r"^#+(?= )", ENGLISH, re.M)
    for what, pattern in {"links and pictures": LINK, "code": SPAN, "figures": re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*", re.ASCII)}.items():
        one, other = (Counter(m[m.re.groups] for m in pattern.finditer(plain(text))) for text in (ENGLISH, CHINESE))
        assert one == other, f"{what} of README.md alone: {list(one - other)}; of README.zh.md alone: {list(other - one)}. Bring the Chinese in step."


def plain(text: str) -> str:
    """Without code blocks, the line that leads to the other language, and the digest."""
    lines = [
        line for line in text.splitlines() if not line.startswith(("    ", "<!--")) and "README.zh.md)" not in line and "(README.md)" not in line
    ]
    return "\n".join(lines)


def test_readme_is_in_step_with_the_english() -> None:
    wanted = f"<!-- in step with README.md of SHA-256 {hashlib.sha256(ENGLISH.encode()).hexdigest()} -->"
    assert CHINESE.rstrip().splitlines()[-1] == wanted, (
        f"README.md was changed and README.zh.md was not. Carry the change over into the Chinese, then make this its last line:\n{wanted}"
    )
