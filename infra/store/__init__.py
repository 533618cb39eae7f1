"""Object storage: one interface, a local folder or S3."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.store.base import ObjectInfo, ObjectMissing, ObjectStore, StoreRefused
from infra.store.local import LocalStore

__all__ = ["LocalStore", "ObjectInfo", "ObjectMissing", "ObjectStore", "StoreRefused", "open_store"]


def open_store(uri: str | Path, endpoint: str | None = None) -> ObjectStore:
    """The store at a path, file:///path or s3://bucket/prefix. Raises ValueError for another scheme, StoreRefused as S3Store."""
    text = str(uri)
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme == "s3":
        from infra.store.s3 import S3Store  # boto3 takes half a second to import: only where it is used

        return S3Store(text, endpoint)
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"'{text}' names the host '{parts.netloc}'; a file uri has three slashes: file:///path")
        return LocalStore(unquote(parts.path))
    if scheme:
        raise ValueError(f"store uri scheme '{scheme}://' is not known. Use a path, file:///path or s3://bucket/prefix.")
    if not text:
        raise ValueError("the store uri is empty. Use a path, file:///path or s3://bucket/prefix.")
    return LocalStore(text)
