"""The parent's side of decode_worker.py: one child a process, reused, and replaced when it dies, errs or overstays."""

from __future__ import annotations

import atexit
import contextlib
import json
import mmap
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

WORKER = Path(__file__).with_name("decode_worker.py")
REQUESTS_PER_CHILD = 1024  # decord leaks with some files, and a child takes 0.5 s to start


class VideoUnreadable(ValueError):
    """The decoder refused the file, crashed on it, or did not come to an end."""


class DecodeTimeout(VideoUnreadable):
    """The decoder did not answer in time and was killed."""


class DecoderKilled(RuntimeError):
    """The decoder was killed from outside: says nothing about the file, so no clip is refused for it; trying again may do."""


class _Died(Exception):
    """The child ended by itself in mid-request."""


class Decoder:
    """Asks the child; thread-safe (one request at a time)."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew without touching the child: after a fork it is the parent's."""
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._asked = 0

    @property
    def child_pid(self) -> int | None:
        """Process id of the living child, None where there is none."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def ask(self, path: str, request: dict[str, Any], timeout_s: float, name: str) -> tuple[dict[str, Any], np.ndarray | None]:
        """The child's header and frames (uint8 T,H,W,C). timeout_s: of the whole request, seconds; `name` stands for the file in errors.

        A child that dies is replaced and asked once more: only a file that crashes two of them is to blame, and only where nobody killed
        them. Raises VideoUnreadable, DecodeTimeout, DecoderKilled.
        """
        try:
            return self._ask(path, request, timeout_s, name)
        except (_Died, DecoderKilled):
            pass
        try:
            return self._ask(path, request, timeout_s, name)
        except _Died as died:
            raise VideoUnreadable(f"{name} crashed its decoder twice ({died}). Re-encode the file.") from None

    def _ask(self, path: str, request: dict[str, Any], timeout_s: float, name: str) -> tuple[dict[str, Any], np.ndarray | None]:
        with self._lock:
            child = self._living_child()
            keep = False
            try:
                header, frames = self._exchange(child, {"path": path, **request}, time.monotonic() + timeout_s)
                if "error" in header:
                    said = _plain(header["error"]).replace(path, "the file").rstrip(". ")  # path may be a temporary one
                    raise VideoUnreadable(f"{name} cannot be decoded: {said}.")
                self._asked += 1
                keep = self._asked < REQUESTS_PER_CHILD
                return header, frames
            except TimeoutError:
                raise DecodeTimeout(
                    f"{name} was not decoded in {timeout_s:g} s and its decoder was killed. Re-encode the file, or raise decode_timeout_s."
                ) from None
            except (EOFError, BrokenPipeError):
                words = self._last_words(child)
                if child.returncode == -signal.SIGKILL:
                    raise DecoderKilled(f"the decoder of {name} was killed from outside, by the kernel for memory perhaps. Try again.") from None
                raise _Died(words) from None
            finally:
                if not keep:
                    self._end()

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def _living_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _end
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0
            )
            assert self._child.stdout is not None
            os.set_blocking(self._child.stdout.fileno(), False)
        return self._child

    def _exchange(self, child: subprocess.Popen[bytes], request: dict[str, Any], deadline: float) -> tuple[dict[str, Any], np.ndarray | None]:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(request).encode() + b"\n")
        fd = child.stdout.fileno()
        head = bytearray()
        while b"\n" not in head:
            _wait(fd, deadline)
            piece = os.read(fd, 65536)
            if not piece:
                raise EOFError
            head += piece
        header = json.loads(bytes(head))
        if "bytes" not in header:
            return header, None
        return header, _mapped(child, header)

    def _last_words(self, child: subprocess.Popen[bytes]) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
        assert self._stderr is not None
        self._stderr.seek(0)
        lines = self._stderr.read()[-2000:].decode(errors="replace").strip().splitlines()
        return f"exit status {child.returncode}" + (f": {lines[-1]}" if lines else "")

    def _end(self) -> None:
        child, self._child, self._asked = self._child, None, 0
        if child is None:
            return
        if child.poll() is None:
            child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _mapped(child: subprocess.Popen[bytes], header: dict[str, Any]) -> np.ndarray:
    """The child's frames, in memory that both see: nothing is copied, and it is free when the array is."""
    assert child.stdin is not None
    try:
        fd = os.open(f"/proc/{child.pid}/fd/{header['fd']}", os.O_RDWR)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise EOFError from error  # it has died since it answered
    try:
        memory = mmap.mmap(fd, header["bytes"], flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(fd)
    child.stdin.write(b"\n")
    return np.frombuffer(memory, np.uint8).reshape(header["shape"])


def _wait(fd: int, deadline: float) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLHUP)
    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _plain(error: str) -> str:
    """decord's message without its time stamps, source lines and stack trace."""
    first = error.splitlines()[0]
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+: ?", "", first).strip()[:300]


DECODER = Decoder()
atexit.register(DECODER.close)
os.register_at_fork(after_in_child=DECODER.forget)
