"""A raw-TCP proxy in front of an S3 server that does harm, as planned or at random. Bytes pass unchanged otherwise, so signatures stay valid.

cut       the connection is reset before the request's body has ended: the server never acts
swallow   the server acts, its answer is dropped and the connection reset
hang      the server acts, its answer never comes; the connection stays open
corrupt   one byte of the answer's body is flipped
503       the proxy answers with S3's 503 SlowDown; the server never hears of it
slow      the request waits SLOW_S before it goes on
strip     (no harm plan: `strip_conditions=True`) If-None-Match never reaches the server; breaks signatures, so for moto only
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

SLOW_S = 0.5
SLOW_DOWN = b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Fault:
    kind: str
    method: str
    contains: str
    times: int
    done: int = 0


class FaultProxy:
    def __init__(self, upstream: str, strip_conditions: bool = False) -> None:
        host, port = upstream.removeprefix("http://").split(":")
        self._upstream = (host, int(port))
        self._strip = strip_conditions
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._at_random: tuple[float, Sequence[str], random.Random] = (0.0, (), random.Random(0))
        self.requests: list[str] = []
        self.harmed: list[tuple[str, str]] = []  # (kind, request), in order
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def plan(self, kind: str, method: str, contains: str = "", times: int = 1) -> Fault:
        """Harm the next `times` requests of that method whose target holds `contains`."""
        fault = Fault(kind, method, contains, times)
        with self._lock:
            self._faults.append(fault)
        return fault

    def harm_at_random(self, share: float, kinds: Sequence[str], seed: int) -> None:
        """From now on harm this share (0 to 1) of all requests, each in one of these ways; what is planned comes first. share 0 ends it."""
        with self._lock:
            self._at_random = (share, kinds, random.Random(seed))

    def close(self) -> None:
        for sock in [self._server, *self._open]:
            with contextlib.suppress(OSError):
                sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            upstream = socket.create_connection(self._upstream)
            self._open += [client, upstream]
            state = _Connection(client, upstream)
            threading.Thread(target=self._guard, args=(self._requests, state), daemon=True).start()
            threading.Thread(target=self._guard, args=(_answers, state), daemon=True).start()

    @staticmethod
    def _guard(work, state: _Connection) -> None:  # type: ignore[no-untyped-def]
        with contextlib.suppress(OSError):
            work(state)

    def _requests(self, c: _Connection) -> None:
        """Client to server: parse each request's head, choose its fate, pass head and body."""
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = c.client.recv(65536)
                if not more:
                    c.close_if_idle()
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            method, target = head.split(b"\r\n", 1)[0].decode().split(" ")[:2]
            self.requests.append(f"{method} {target}")
            c.fate = self._fate(method, target)
            if c.fate == "slow":
                time.sleep(SLOW_S)
            if c.fate == "503":
                self._refuse(c, method, head, data)
                return
            if self._strip:
                head = re.sub(rb"\r\nif-none-match:[^\r]*", b"", head, flags=re.I)
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, flags=re.I)
            left = int(length.group(1)) if length else 0
            c.upstream.sendall(head + b"\r\n\r\n")
            if c.fate == "cut":
                if left > 1:
                    c.upstream.sendall(self._part(c, data, left))
                c.reset()
                return
            while left > 0:
                piece, data = (data[:left], data[left:]) if data else (c.client.recv(65536), b"")
                if not piece:
                    c.reset()
                    return
                data, piece = piece[left:] + data, piece[:left]
                left -= len(piece)
                c.upstream.sendall(piece)

    @staticmethod
    def _refuse(c: _Connection, method: str, head: bytes, data: bytes) -> None:
        """Answer without asking the server. A body that is on its way is read first: a reset would take the answer with it."""
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, flags=re.I)
        left = int(length.group(1)) - len(data) if length and not re.search(rb"\r\nexpect: *100-continue", head, flags=re.I) else 0
        while left > 0 and (piece := c.client.recv(65536)):
            left -= len(piece)
        said = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(SLOW_DOWN)
        c.client.sendall(said if method == "HEAD" else said + SLOW_DOWN)
        c.client.shutdown(socket.SHUT_WR)
        c.close_if_idle()

    @staticmethod
    def _part(c: _Connection, data: bytes, left: int) -> bytes:
        c.client.settimeout(3)
        return (data or c.client.recv(65536))[: left - 1]

    def _fate(self, method: str, target: str) -> str:
        with self._lock:
            for fault in self._faults:
                if fault.method == method and fault.contains in target and fault.done < fault.times:
                    fault.done += 1
                    return self._noted(fault.kind, method, target)
            share, kinds, dice = self._at_random
            return self._noted(dice.choice(kinds), method, target) if dice.random() < share else ""

    def _noted(self, kind: str, method: str, target: str) -> str:
        self.harmed.append((kind, f"{method} {target}"))
        return kind


class _Connection:
    def __init__(self, client: socket.socket, upstream: socket.socket) -> None:
        self.client, self.upstream, self.fate = client, upstream, ""

    def reset(self) -> None:
        for sock in (self.client, self.upstream):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close_if_idle(self) -> None:
        with contextlib.suppress(OSError):
            self.upstream.shutdown(socket.SHUT_WR)


def _answers(c: _Connection) -> None:
    """Server to client. '100 Continue' always passes, or the body would never be sent."""
    proceed = re.compile(rb"^HTTP/1\.[01] 100 [^\r]*\r\n\r\n")
    while True:
        data = c.upstream.recv(65536)
        if not data:
            if c.fate != "hang":
                with contextlib.suppress(OSError):
                    c.client.shutdown(socket.SHUT_WR)
            return
        found = proceed.match(data)
        if found:
            c.client.sendall(found.group(0))
            data = data[found.end() :]
            if not data:
                continue
        if c.fate == "swallow":
            c.reset()
            return
        if c.fate == "hang":
            continue
        if c.fate == "corrupt":
            start = data.find(b"\r\n\r\n") + 4 if data.startswith(b"HTTP/") else 0
            if start < len(data):
                data = data[:start] + bytes([data[start] ^ 0xFF]) + data[start + 1 :]
                c.fate = ""  # one byte is enough
        c.client.sendall(data)
