"""What a key may look like, the same for both backends."""

from __future__ import annotations

import re


def checked_key(key: str) -> str:
    """The key itself. Raises ValueError for an absolute key, '.', '..' or empty parts, a hidden first part, or control characters."""
    parts = key.split("/")
    if not key or len(key.encode()) > 900 or any(p in ("", ".", "..") for p in parts) or parts[0].startswith(".") or _ODD.search(key):
        raise ValueError(f"store key {key!r} is not allowed. Use relative parts joined by '/', without '..', a leading '.', or control characters.")
    return key


def checked_prefix(prefix: str) -> str:
    """A prefix is a key that may end anywhere, also after '/', and may be empty. Raises ValueError as `checked_key`."""
    if prefix:
        checked_key(prefix[:-1] if prefix.endswith("/") else prefix)
    return prefix


_ODD = re.compile(r"[\x00-\x1f\x7f\\]")
