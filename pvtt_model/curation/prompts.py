"""Prompts with another product's words in them."""

from __future__ import annotations

import re


def article(words: str) -> str:
    """The indefinite article before `words`, by their first letter."""
    return "an" if words[:1].lower() in "aeiou" else "a"


def replaced(prompt: str, old: str, new: str) -> str:
    """`prompt` with `new` for every `old`, and the indefinite article before it as `new` wants it: 'An orange cup' -> 'A red pot'."""

    def swap(match: re.Match[str]) -> str:
        return f"{match[1]}{article(new)[1:]} {new}" if match[1] else new

    return re.sub(rf"(?:\b([Aa])n? )?{re.escape(old)}", swap, prompt)
