"""Captions of a clip, each with what it came from; which one is embedded; and whether many are one template.

A manifest's line may carry metadata.captions, a list of {"text": "..", "source": "..", "fallback": false}. The source is 'human', 'file name',
'template', or the model that wrote it with its revision, 'qwen2.5-vl-7b@<commit>': a caption that claims a model says which.
`fallback` marks what stands in for a better one that was not to be had.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pvtt_model.data.refusals import Refused

BY_NO_MODEL = ("human", "file name", "template")
UNSTATED = "the manifest, which does not say"
MOVING = ("main", "master", "latest", "head")  # revisions that are none
_MODEL = re.compile(r"[^\s@]+@[^\s@]+")
RARE = 0.2  # a word in fewer of the captions fills a slot
FIXED_WORDS = 4  # that a template has at least


class Caption(NamedTuple):
    text: str
    source: str  # as in the manifest; of a drafted prompt what the draft says; UNSTATED
    fallback: bool


def check_captions(captions: Any) -> None:
    """metadata.captions as the module's docstring has it, or None. Raises Refused."""
    if captions is None:
        return
    cure = 'Give a list of {"text": "..", "source": "..", "fallback": false}, or leave it out.'
    if not isinstance(captions, list) or not all(isinstance(caption, dict) for caption in captions):
        raise Refused("bad_caption", f"metadata.captions is {json.dumps(captions)[:80]}. {cure}")
    for number, caption in enumerate(captions, 1):
        where = f"caption {number} of metadata.captions"
        if not {"text", "source"} <= set(caption) <= {"text", "source", "fallback"}:
            raise Refused("bad_caption", f"{where} has the fields {sorted(caption)[:6]}. {cure}")
        text, source, fallback = caption["text"], caption["source"], caption.get("fallback", False)
        if not (isinstance(text, str) and isinstance(source, str) and isinstance(fallback, bool)):
            raise Refused("bad_caption", f"{where} has text, source, fallback of {json.dumps([text, source, fallback])[:80]}. {cure}")
        if not text.strip():
            raise Refused("bad_caption", f"{where} has an empty text. Leave the caption out.")
        _check_source(source, where)


def _check_source(source: str, where: str) -> None:
    if source in BY_NO_MODEL:
        return
    if not _MODEL.fullmatch(source) or source.partition("@")[2].lower() in MOVING:
        raise Refused(
            "bad_caption",
            f"{where} is from {source[:80]!r}. Write {', '.join(map(repr, BY_NO_MODEL))}, or the model that wrote it with its revision, "
            f"NAME@REVISION (a commit or a dated version; {', '.join(MOVING)} move).",
        )


def caption_of(clip: Mapping[str, Any], preferred: Sequence[str] = (), must_hold: str | None = None) -> Caption:
    """The caption of a clips row to embed: its first one from the first of the preferred sources that it has; a name before '@' is any revision.

    A clip with none of them falls back on its text_prompt, marked so; nothing preferred takes the text_prompt of all. must_hold: words that
    the caption has to hold, letter by letter, to be taken from metadata.captions.
    """
    metadata = json.loads(clip.get("metadata") or "{}")
    given = [Caption(c["text"], c["source"], c.get("fallback", False)) for c in metadata.get("captions") or ()]
    own = next((c for c in given if c.text == clip["prompt"]), None) or _text_prompt(str(clip["prompt"]), metadata)
    for name in preferred:
        for caption in (*given, own):
            if name in (caption.source, caption.source.partition("@")[0]) and (must_hold is None or must_hold in caption.text):
                return caption
    return own._replace(fallback=True) if preferred else own


def _text_prompt(prompt: str, metadata: Mapping[str, Any]) -> Caption:
    """The line's own prompt; a draft says what it is from, and the words of a file name stand in for a description."""
    provenance = metadata.get("provenance")
    said = provenance.get("text_prompt") if isinstance(provenance, dict) else None
    source = said.removeprefix("the ") if isinstance(said, str) and said.strip() else UNSTATED
    return Caption(prompt, source, source == "file name")


def templates(captions: Mapping[tuple[str, str | None], int]) -> dict[tuple[str, str | None], str | None]:
    """(caption, the product's words) -> how many such there are, to its template: two captions of equal templates say the same of different
    things. None where too little is left to be one.

    '*' for the product's words and for every run of words that are in fewer than a fifth of the captions; case and punctuation go. A
    template has at least 4 words besides.
    """
    bare = {(text, part): (text.replace(part, " * ") if part else text).lower() for text, part in captions}
    counts: Counter[str] = Counter()  # captions repeat themselves, and more so without the product's words
    for pair, count in captions.items():
        counts[bare[pair]] += count
    split = {text: re.findall(r"\w+|\*", text) for text in counts}
    seen: Counter[str] = Counter()
    for text, count in counts.items():
        for word in set(split[text]):
            seen[word] += count
    common = {word for word, count in seen.items() if word != "*" and count >= RARE * counts.total()}
    found: dict[str, str | None] = {}
    for text, words in split.items():
        kept: list[str] = []
        for word in words:
            if word in common:
                kept.append(word)
            elif not kept or kept[-1] != "*":
                kept.append("*")
        found[text] = " ".join(kept) if len(kept) - kept.count("*") >= FIXED_WORDS else None
    return {pair: found[bare[pair]] for pair in captions}
