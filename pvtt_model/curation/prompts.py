"""Prompts with another product's words in them."""

from __future__ import annotations

import re


def replaced(prompt: str, old: str, new: str) -> str:
    """`prompt` with `new` for every `old`, and the indefinite article before it as `new` wants it: 'An orange cup' -> 'A red pot'."""
    n = "n" if new[:1].lower() in "aeiou" else ""

    def swap(match: re.Match[str]) -> str:
        return f"{match[1]}{n} {new}" if match[1] else new

    return re.sub(rf"(?:\b([Aa])n? )?{re.escape(old)}", swap, prompt)
