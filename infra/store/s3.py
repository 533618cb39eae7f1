"""Objects in an S3 bucket, over any server whose PutObject honours `If-None-Match: *` (AWS, Ceph RGW; not the JuiceFS gateway)."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnection

from infra.store.base import ObjectInfo, ObjectMissing, StoreRefused, whole_range
from infra.store.keys import checked_key, checked_prefix

log = logging.getLogger(__name__)
PART_BYTES = 16 * 2**20
#: What leaves the outcome of a request open: it may have happened.
UNKNOWN_OUTCOME = (HTTPClientError, NoConnection, IncompleteReadError)
ATTEMPTS = 5
BUCKET, ADDRESS = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"), re.compile(r"[0-9.]+")
T = TypeVar("T")

_probed: set[tuple[str, str | None]] = set()
_probe_lock = threading.Lock()


def endpoint_from_env(endpoint: str | None = None) -> str | None:
    """The argument, else AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL, else None (AWS itself). Raises ValueError where it holds a password."""
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    if endpoint and "@" in urlsplit(endpoint).netloc:
        raise ValueError("the S3 endpoint holds a user or password (not shown). Give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
    return endpoint


def split_s3_uri(uri: str) -> tuple[str, str]:
    """'s3://bucket/some/prefix/' as ('bucket', 'some/prefix'). Raises ValueError, without the uri's secrets, where it is something else.

    A bucket's name and nothing that a client may take for another host: no ARN, address or port. PVTT_BUCKETS, where it is set, names those that
    may be spoken to, separated by commas: uris come from manifests and forms, too.
    """
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise ValueError("the s3:// uri holds a user or password (not shown). Give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError(f"'{uri}' is not of the form s3://bucket/prefix")
    if uri.split("://", 1)[1].partition("/")[0] != parts.netloc or not BUCKET.fullmatch(parts.netloc) or ADDRESS.fullmatch(parts.netloc):
        raise ValueError(f"'{parts.netloc}' is no name of a bucket: 3 to 63 of a-z, 0-9, '-', '.'. The server is said by AWS_ENDPOINT_URL_S3.")
    allowed = [name.strip() for name in os.environ.get("PVTT_BUCKETS", "").split(",") if name.strip()]
    if allowed and parts.netloc not in allowed:
        raise ValueError(f"bucket '{parts.netloc}' is not one of PVTT_BUCKETS ({', '.join(allowed)}). Add it there, or use one of them.")
    prefix = uri.split("://", 1)[1].partition("/")[2].strip("/")
    checked_prefix(prefix)
    return parts.netloc, prefix


def s3_client(endpoint: str | None = None, *, connect_timeout_s: float = 10.0, read_timeout_s: float = 60.0, max_attempts: int = ATTEMPTS) -> Any:
    """A boto3 S3 client: retries with backoff and jitter, timeouts, path addressing at a given endpoint. Credentials by boto3's own chain."""
    endpoint = endpoint_from_env(endpoint)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": max_attempts},
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        max_pool_connections=32,
        tcp_keepalive=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint else None,
    )
    session = boto3.session.Session()
    client = session.client("s3", endpoint_url=endpoint, config=config, region_name=session.region_name or "us-east-1")
    client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
    return client


class S3Store:
    """A bucket and prefix. Picklable (without its connections); safe across threads, and after a fork.

    endpoint: of a server other than AWS; default from AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL.
    Opening it probes, once a process, that conditional puts are honoured. Raises StoreRefused where they are not, where the bucket
    is absent or access is denied; ConnectionError where the server does not answer.
    """

    at_once = 16  # of max_pool_connections, which other threads of the process share
    _client: Any
    _client_pid: int
    _client_lock: threading.Lock

    def __init__(
        self,
        uri: str,
        endpoint: str | None = None,
        *,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 60.0,
        max_attempts: int = ATTEMPTS,
        probe: bool = True,
    ) -> None:
        self.bucket, self.prefix = split_s3_uri(uri)
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.endpoint = endpoint_from_env(endpoint)
        self._options: dict[str, Any] = {"connect_timeout_s": connect_timeout_s, "read_timeout_s": read_timeout_s, "max_attempts": max_attempts}
        self._forget_client()
        if probe:
            probe_once(self)

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r}, endpoint={self.endpoint!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_client", "_client_pid", "_client_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_client()

    def put_bytes(self, key: str, data: bytes) -> None:
        with self._plain_errors(f"writing {key}"):
            self.client.put_object(Bucket=self.bucket, Key=self._full(key), Body=data)

    def put_file(self, key: str, path: str | Path) -> None:
        full = self._full(key)
        with self._plain_errors(f"writing {key}"):
            for attempt in range(ATTEMPTS):
                try:
                    self.client.upload_file(str(path), self.bucket, full, Config=_transfer())
                    return
                except S3UploadFailedError as error:
                    # A completion whose answer was lost is answered with NoSuchUpload on the hidden retry: write it anew, it is the same.
                    cause = error.__context__
                    if not isinstance(cause, ClientError) or cause.response["Error"].get("Code") != "NoSuchUpload" or attempt + 1 == ATTEMPTS:
                        raise cause if isinstance(cause, ClientError) else error from None
                    _pause(attempt)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        full = self._full(key)
        with self._plain_errors(f"creating {key}"):
            for attempt in range(ATTEMPTS):
                failure: Exception | None = None
                try:
                    self.client.put_object(Bucket=self.bucket, Key=full, Body=data, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    status = _status(error)
                    if status == 501 or (status not in (409, 412) and status < 500):
                        raise
                    failure = error
                except UNKNOWN_OUTCOME as error:
                    failure = error
                # Either someone made it, or we did and the acknowledgement was lost (the SDK's hidden retry then sees 412): look.
                try:
                    return self.get_bytes(key) == data
                except ObjectMissing:
                    if attempt + 1 == ATTEMPTS:
                        raise failure from None
                    _pause(attempt)
        raise AssertionError("unreachable")

    def get_bytes(self, key: str) -> bytes:
        full = self._full(key)

        def read() -> bytes:
            return self.client.get_object(Bucket=self.bucket, Key=full)["Body"].read()

        with self._plain_errors(f"reading {key}"):
            return _again(read)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        full, asked = self._full(key), f"bytes={offset}-{offset + length - 1}"

        def read() -> bytes:
            try:
                return self.client.get_object(Bucket=self.bucket, Key=full, Range=asked)["Body"].read()
            except ClientError as error:
                if _status(error) == 416:  # the range begins behind the object's end
                    return b""
                raise

        with self._plain_errors(f"reading {key}"):
            return whole_range(_again(read), key, offset, length)

    def get_file(self, key: str, path: str | Path) -> None:
        with self._plain_errors(f"reading {key}"):
            download(self.client, self.bucket, self._full(key), Path(path))

    def exists(self, key: str) -> bool:
        with self._plain_errors(f"looking for {key}"):
            try:
                self.client.head_object(Bucket=self.bucket, Key=self._full(key))
                return True
            except ClientError as error:
                if _status(error) == 404:
                    return False
                raise

    def stat(self, key: str) -> ObjectInfo | None:
        first = next(iter(self.list(key)), None)
        return first if first is not None and first.key == key else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        cut = len(self.prefix) + 1 if self.prefix else 0
        full = (f"{self.prefix}/" if self.prefix else "") + checked_prefix(prefix)
        with self._plain_errors(f"listing '{prefix}'"):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=full):
                for item in page.get("Contents", ()):
                    yield ObjectInfo(item["Key"][cut:], item["Size"], item["LastModified"].timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        names = [self._full(key) for key in keys]
        with self._plain_errors(f"deleting {len(names)} objects"):
            for i in range(0, len(names), 1000):
                batch = {"Objects": [{"Key": name} for name in names[i : i + 1000]], "Quiet": True}
                failed = self.client.delete_objects(Bucket=self.bucket, Delete=batch).get("Errors", [])
                if failed:
                    raise OSError(f"{self.uri}: {len(failed)} objects were not deleted, first {failed[0].get('Key')}: {failed[0].get('Code')}")

    def touch(self, key: str) -> None:
        full = self._full(key)
        source = {"Bucket": self.bucket, "Key": full}
        big = TransferConfig(multipart_threshold=4 * 2**30)  # one CopyObject takes up to 5 GB
        with self._plain_errors(f"touching {key}"):
            self.client.copy(source, self.bucket, full, ExtraArgs={"MetadataDirective": "REPLACE"}, Config=big)

    @property
    def client(self) -> Any:
        with self._client_lock:
            if self._client is None or self._client_pid != os.getpid():
                self._client, self._client_pid = s3_client(self.endpoint, **self._options), os.getpid()
            return self._client

    def _forget_client(self) -> None:
        self._client = None
        self._client_pid = 0
        self._client_lock = threading.Lock()

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{checked_key(key)}" if self.prefix else checked_key(key)

    @contextmanager
    def _plain_errors(self, doing: str) -> Iterator[None]:
        where = f"{self.uri} at {self.endpoint or 'AWS'}"
        try:
            yield
        except ClientError as error:
            code, status = error.response["Error"].get("Code", ""), _status(error)
            if code == "NoSuchBucket":
                raise StoreRefused(f"{where}: no bucket '{self.bucket}' ({doing}). Create it, or correct the uri or the endpoint.") from error
            if status == 404:
                raise ObjectMissing(f"nothing there, {doing} in {where}") from error
            if status in (401, 403):
                raise StoreRefused(
                    f"{where}: {doing} was refused with {status} {code}. Check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...) "
                    "and that they may list, read, write and delete here."
                ) from error
            raise
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreRefused(f"{where}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.") from error
        except UNKNOWN_OUTCOME as error:
            raise ConnectionError(f"{where}: {doing} failed after retries: {error}. Is the server up, and the endpoint right?") from error
        except (BotoCoreError, Boto3Error) as error:
            raise OSError(f"{where}: {doing} failed: {error}") from error


def probe_once(store: S3Store) -> None:
    """Writes one object twice with `If-None-Match: *`; the second must be answered with 412. Once a process, per uri and endpoint."""
    with _probe_lock:
        if (store.uri, store.endpoint) in _probed:
            return
        key = f"probe/{uuid.uuid4().hex}"
        got = _second_put(store, key)
        try:
            store.delete([key])
        except (StoreRefused, OSError, ClientError) as error:
            log.warning("the probe object %s was not deleted (gc takes it later): %s", key, error)
        if got != 412:
            raise StoreRefused(
                f"{store.uri} at {store.endpoint or 'AWS'} does not honour conditional puts: a second PUT with 'If-None-Match: *' must be answered "
                f"with 412, got {got}. Two writers would both believe that they made an artifact. Use AWS S3, Ceph RGW or another server that "
                "honours it (the JuiceFS gateway does not), or a local folder."
            )
        _probed.add((store.uri, store.endpoint))


def _second_put(store: S3Store, key: str) -> int:
    try:
        store.put_if_absent(key, b"first")
    except ClientError as error:  # e.g. 501 Not Implemented, or 400 for a header it does not know
        return _status(error)
    with store._plain_errors("probing"):
        for attempt in range(ATTEMPTS):
            try:
                answer = store.client.put_object(Bucket=store.bucket, Key=store._full(key), Body=b"second", IfNoneMatch="*")
                return int(answer["ResponseMetadata"]["HTTPStatusCode"])
            except ClientError as error:
                if _status(error) != 409 or attempt + 1 == ATTEMPTS:
                    return _status(error)
                _pause(attempt)
    raise AssertionError("unreachable")


def download(client: Any, bucket: str, key: str, path: Path) -> None:
    """One object to `path`, which appears whole or not at all. Raises botocore's errors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        _again(lambda: client.download_file(bucket, key, str(tmp), Config=_transfer()))
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def _again(read: Callable[[], T]) -> T:
    """A read that broke while its body streamed is safe to repeat; the SDK retries only up to the first byte."""
    for attempt in range(ATTEMPTS):
        try:
            return read()
        except UNKNOWN_OUTCOME:
            if attempt + 1 == ATTEMPTS:
                raise
            _pause(attempt)
    raise AssertionError("unreachable")


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """DeleteObjects must carry a Content-MD5 where the server does not know the SDK's newer checksums (MinIO's gateway in JuiceFS)."""
    params["headers"]["Content-MD5"] = base64.b64encode(hashlib.md5(params["body"], usedforsecurity=False).digest()).decode()


def _transfer() -> TransferConfig:
    return TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _pause(attempt: int) -> None:
    time.sleep(min(5.0, 0.1 * 2**attempt) * (0.5 + random.random()))
