"""What answers, and how fast: the store, a Ray cluster, a Prefect server. Facts alone; who judges them: tasks/preflight.py."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
import uuid
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from infra.store import ObjectStore, StoreRefused, open_store
from infra.store.base import ObjectMissing


class StoreFacts(NamedTuple):
    """put_s, get_s, delete_s: seconds of one small object. skew_s: the store's clock ahead of this machine's; S3 tells whole seconds."""

    uri: str
    put_s: float
    get_s: float
    delete_s: float
    skew_s: float


def probe_store(uri: str) -> StoreFacts:
    """Create, refuse to create again, read back, list and delete one object. Raises StoreRefused where the store does not keep its promises,
    OSError (ConnectionError) where it does not answer or may not be written to, ValueError for a uri that is none."""
    store = open_store(uri)  # S3 is probed for conditional puts here
    key, data = f"probe/{uuid.uuid4().hex}", uuid.uuid4().bytes
    before, started = time.time(), time.perf_counter()
    try:
        first = store.put_if_absent(key, data)
        put_s, middle = time.perf_counter() - started, (before + time.time()) / 2
        if not first or store.put_if_absent(key, b"second"):
            raise StoreRefused(f"{store.uri} let an object be created twice: two writers would both believe that they made an artifact.")
        started = time.perf_counter()
        read = store.get_bytes(key)
        get_s = time.perf_counter() - started
        if read != data:
            raise StoreRefused(f"{store.uri} gave back other bytes than were written.")
        skew_s = next((info.modified_s for info in store.list(key)), middle) - middle
    except ObjectMissing:
        raise StoreRefused(f"{store.uri} does not show an object that was just written: it is no strongly consistent store.") from None
    finally:
        started = time.perf_counter()
        _delete(store, key)
    return StoreFacts(store.uri, put_s, get_s, time.perf_counter() - started, skew_s)


def _delete(store: ObjectStore, key: str) -> None:
    """gc takes what stays."""
    try:
        store.delete([key])
    except OSError:
        return


def ray_answers(address: str, timeout_s: float = 3.0) -> str | None:
    """None where something listens at RAY_ADDRESS (host:port or ray://host:port), else why not. 'auto' names no place to ask: None."""
    place = address.removeprefix("ray://")
    if place in ("auto", "local"):
        return None
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        return "is not of the form host:port or ray://host:port"
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s):
            return None
    except OSError as error:
        return f"nobody answers ({error.strerror or error})"


def prefect_answers(api: str, timeout_s: float = 3.0) -> str | None:
    """None where the Prefect server's health is well at PREFECT_API_URL, else why not."""
    parts = urlsplit(api)
    if parts.scheme not in ("http", "https"):
        return "is no http address"
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    try:
        with urllib.request.urlopen(f"{plain.rstrip('/')}/health", timeout=timeout_s):
            return None
    except urllib.error.HTTPError as error:
        return f"answers {error.code}"
    except (urllib.error.URLError, OSError) as error:
        return f"nobody answers ({getattr(error, 'reason', error)})"


def without_secrets(uri: str) -> str:
    """The uri without user, password and query."""
    parts = urlsplit(uri)
    if not parts.scheme or not parts.netloc:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"***@{host}" if "@" in parts.netloc else host, query="***" if parts.query else "", fragment=""))
