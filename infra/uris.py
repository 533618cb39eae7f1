"""A path or an s3:// uri as a path on this machine."""

from __future__ import annotations

import os
import posixpath
import shutil
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from infra.store.s3 import download, endpoint_from_env, s3_client, split_s3_uri
from pvtt_model.artifacts import digest


def is_remote(uri: str | Path) -> bool:
    """True for s3://, whose bytes must be fetched."""
    return str(uri).startswith("s3://")


def localise(uri: str | Path, folder: str | Path, root: str | Path | None = None) -> Path:
    """The local path of a file or folder. s3:// is fetched below `folder`, whole or not at all, and not again while it is unchanged.

    root: what a relative path is relative to (a folder, or an s3:// uri); default the working directory. A path is not held inside
    root: whoever takes paths from a stranger checks them first. Raises FileNotFoundError for what is not there, ValueError for another
    scheme, ConnectionError where S3 does not answer.
    """
    text = str(uri)
    if "://" not in text and root is not None and not os.path.isabs(text):
        text = join(root, text)
    if is_remote(text):
        return _fetch(text, Path(folder))
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    elif "://" in text:
        raise ValueError(f"'{uri}' has a scheme that is not known. Use a path, file:///path or s3://bucket/key.")
    path = Path(text).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"'{uri}' is not there (looked at {path.absolute()}). Correct the path, or what it is relative to.")
    return path


def join(root: str | Path, relative: str) -> str:
    """`relative` below `root`, a folder or an s3:// uri. Raises ValueError where it climbs out of an s3:// root."""
    if not is_remote(root):
        return str(Path(root) / relative)
    below = posixpath.normpath(relative)
    if below.startswith("..") or below.startswith("/"):
        raise ValueError(f"'{relative}' climbs out of {root}. Use a path below it, or a whole s3:// uri.")
    return f"{str(root).rstrip('/')}/{below}"


def _fetch(uri: str, folder: Path) -> Path:
    bucket, key = split_s3_uri(uri)
    client = _client(endpoint_from_env(), os.getpid())
    try:
        objects = _objects(client, bucket, key)
        if not objects:
            raise FileNotFoundError(f"there is nothing at {uri}. Correct the uri, or AWS_ENDPOINT_URL_S3 where it is another server.")
        # By the listing's ETags: what changed there goes to a new place, and a finished place is complete.
        place = folder / digest(uri, objects)[:16]
        target = place / (posixpath.basename(key) or bucket)
        if not target.exists():
            _download_all(client, bucket, key, [name for name, _, _ in objects], target)
        return target
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        kind = FileNotFoundError if code in ("NoSuchBucket", "NoSuchKey", "404") else PermissionError
        raise kind(f"{uri}: S3 answered {code}. Correct the uri, the endpoint or the credentials.") from error
    except BotoCoreError as error:
        raise ConnectionError(f"{uri}: {error}. Is the server up, and AWS_ENDPOINT_URL_S3 right?") from error


@lru_cache(maxsize=4)
def _client(endpoint: str | None, pid: int) -> Any:
    """One a process and endpoint: making one takes about 0.3 s. `pid`, because a client does not survive a fork."""
    return s3_client(endpoint)


def _objects(client: Any, bucket: str, key: str) -> list[tuple[str, str, int]]:
    """(key, ETag, bytes) of the one object, or of all below it as a folder."""
    found = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
        for item in page.get("Contents", ()):
            name = item["Key"]
            if name == key:
                return [(name, item["ETag"], item["Size"])]
            if (not key or name.startswith(f"{key}/")) and not name.endswith("/"):
                found.append((name, item["ETag"], item["Size"]))
    return found


def _download_all(client: Any, bucket: str, key: str, names: list[str], target: Path) -> None:
    if names == [key]:
        download(client, bucket, key, target)
        return
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        for name in names:
            below = name[len(key) :].lstrip("/")
            if any(p in ("", "..", ".") for p in below.split("/")):
                raise ValueError(f"s3://{bucket}/{name} cannot be kept as a file: its key has an empty part, '.' or '..'")
            download(client, bucket, name, part / below)
        try:
            os.rename(part, target)
        except OSError:
            if not target.exists():  # else another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
