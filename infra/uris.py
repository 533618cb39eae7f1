"""A path or an s3:// uri as a path on this machine."""

from __future__ import annotations

import os
import posixpath
import shutil
import time
import uuid
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from infra.store.local import link_or_copy
from infra.store.s3 import download, endpoint_from_env, s3_client, split_s3_uri
from pvtt_model.artifacts import digest

#: Where the objects of all uris lie below the folder, a file each; beside it the places that show them by their names.
OBJECTS = "objects"
STALE_PART_S = 86400.0
LISTINGS = 3  # tries, where objects change between their listing and their download

Object = tuple[str, str, int]  # key, ETag, bytes


class _Changed(Exception):
    """An object is no longer what the listing said."""


def is_remote(uri: str | Path) -> bool:
    """True for s3://, whose bytes must be fetched."""
    return str(uri).startswith("s3://")


def localise(uri: str | Path, folder: str | Path, root: str | Path | None = None) -> Path:
    """The local path of a file or folder. s3:// is fetched below `folder`, whole or not at all, and no object again while it is unchanged.

    What is there now is shown at a place of its own, of hard links to the objects kept (copies on a file system without them). Earlier places
    stay as they are, for those who still read them; with them the bytes of objects that changed or went. `folder` may be deleted at any time.

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
        for _ in range(LISTINGS):
            objects = _objects(client, bucket, key)
            if not objects:
                raise FileNotFoundError(f"there is nothing at {uri}. Correct the uri, or AWS_ENDPOINT_URL_S3 where it is another server.")
            # By the listing's ETags: what changed there goes to a new place, and a finished place is complete.
            target = folder / digest(uri, objects)[:16] / (posixpath.basename(key) or bucket)
            try:
                if not target.exists():
                    _view(client, bucket, key, objects, folder / OBJECTS, target)
                return target
            except _Changed:
                continue
        raise OSError(f"{uri} changed {LISTINGS} times while it was fetched. Let the upload end, then run again.")
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        kind: type[OSError] = FileNotFoundError if code in ("NoSuchBucket", "NoSuchKey", "404") else PermissionError
        if int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500:  # it may pass
            kind = ConnectionError
        raise kind(f"{uri}: S3 answered {code}. Correct the uri, the endpoint or the credentials.") from error
    except BotoCoreError as error:
        raise ConnectionError(f"{uri}: {error}. Is the server up, and AWS_ENDPOINT_URL_S3 right?") from error


@lru_cache(maxsize=4)
def _client(endpoint: str | None, pid: int) -> Any:
    """One a process and endpoint: making one takes about 0.3 s. `pid`, because a client does not survive a fork."""
    return s3_client(endpoint)


def _objects(client: Any, bucket: str, key: str) -> list[Object]:
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


def _view(client: Any, bucket: str, key: str, objects: list[Object], kept_in: Path, target: Path) -> None:
    """The one object as a file, or all as a folder, of hard links to the objects kept; those not yet there are downloaded, each whole.

    Raises _Changed where one is no longer what was listed, ValueError for a key that cannot be a file's path.
    """
    names = {name: name[len(key) :].lstrip("/") for name, _, _ in objects}
    alone = [name for name, _, _ in objects] == [key]
    for name, below in names.items():
        if not alone and any(p in ("", "..", ".") for p in below.split("/")):
            raise ValueError(f"s3://{bucket}/{name} cannot be kept as a file: its key has an empty part, '.' or '..'")
    _sweep(kept_in, os.getpid())
    kept = {item[0]: _kept(client, bucket, item, kept_in) for item in objects}
    part = kept_in / f".{uuid.uuid4().hex}.part"
    try:
        for name, path in kept.items():
            at = part if alone else part / names[name]
            at.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, at)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(part, target)
        except OSError:
            if not target.exists():  # else another process was first, with the same bytes
                raise
    finally:
        _remove(part)


def _kept(client: Any, bucket: str, item: Object, kept_in: Path) -> Path:
    """The object's bytes, read-only, by its uri, ETag and size: downloaded unless they are there."""
    name, etag, _ = item
    path = kept_in / digest(f"s3://{bucket}/{name}", *item[1:])
    if path.exists():
        return path
    fresh = kept_in / f".{uuid.uuid4().hex}.part"
    try:
        download(client, bucket, name, fresh)
        if client.head_object(Bucket=bucket, Key=name)["ETag"] != etag:
            raise _Changed
        fresh.chmod(0o444)
        os.replace(fresh, path)
    except ClientError as error:
        if error.response["Error"].get("Code") in ("NoSuchKey", "404", "PreconditionFailed", "412"):
            raise _Changed from error
        raise
    finally:
        fresh.unlink(missing_ok=True)
    return path


@lru_cache(maxsize=16)
def _sweep(kept_in: Path, pid: int) -> None:
    """Remove what processes killed more than a day ago left half-fetched; once a process, as there may be many objects to pass."""
    for part in kept_in.glob(".*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > STALE_PART_S:
                _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)
