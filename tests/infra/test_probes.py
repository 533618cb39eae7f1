"""What answers: stores, and the addresses of Ray and Prefect."""

from __future__ import annotations

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import infra.probes as probes
from infra.local_services import free_port
from infra.probes import prefect_answers, probe_store, ray_answers, without_secrets
from infra.store import LocalStore, StoreRefused


def test_a_folder_and_s3_make_the_round_trip_and_are_left_clean(tmp_path, moto_endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_endpoint)
    for uri in (str(tmp_path / "store"), "s3://pvtt/doctor"):
        facts = probe_store(uri)
        assert facts.uri == uri and all(0 <= s < 10 for s in facts[1:4]) and abs(facts.skew_s) < 3
        assert list(probes.open_store(uri).list()) == []


def test_a_clock_that_is_ahead_is_seen(tmp_path, monkeypatch):
    class Ahead(LocalStore):
        def put_if_absent(self, key, data):
            made = super().put_if_absent(key, data)
            os.utime(self.path_of(key), (time.time() + 90, time.time() + 90))
            return made

    monkeypatch.setattr(probes, "open_store", lambda uri: Ahead(uri))
    assert probe_store(str(tmp_path)).skew_s == pytest.approx(90, abs=2)


def test_stores_that_break_their_promises(tmp_path, monkeypatch):
    class Twice(LocalStore):
        def put_if_absent(self, key, data):
            self.put_bytes(key, data)
            return True

    class Damaging(LocalStore):
        def get_bytes(self, key):
            return super().get_bytes(key)[::-1] if key.startswith("probe/") else super().get_bytes(key)

    for kind, says in ((Twice, "created twice"), (Damaging, "other bytes")):
        monkeypatch.setattr(probes, "open_store", lambda uri, kind=kind: kind(uri))
        with pytest.raises(StoreRefused, match=says):
            probe_store(str(tmp_path))
    assert not list((tmp_path / "probe").glob("*")), "what was written is taken away again"


def test_a_place_that_cannot_be_written_to():
    with pytest.raises(OSError):
        probe_store("/proc/pvtt/store")


class _Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_ray_and_prefect_by_their_addresses():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port, closed = server.server_port, free_port(1)
    try:
        assert prefect_answers(f"http://127.0.0.1:{port}/api") is None
        assert prefect_answers(f"http://127.0.0.1:{port}/") == "answers 404"
        assert ray_answers(f"127.0.0.1:{port}") is None and ray_answers(f"ray://127.0.0.1:{port}") is None and ray_answers("auto") is None
    finally:
        server.shutdown()
        server.server_close()
    assert "nobody answers" in str(ray_answers(f"127.0.0.1:{closed}")) and "nobody answers" in str(prefect_answers(f"http://127.0.0.1:{closed}/api"))
    assert "not of the form" in str(ray_answers("head-node")) and "no http address" in str(prefect_answers("file:///etc"))


def test_no_secret_is_shown():
    assert without_secrets("https://user:secret@host:4200/api?token=abc") == "https://***@host:4200/api?***"  # not-a-secret: to be refused or hidden
    assert without_secrets("s3://bucket/prefix") == "s3://bucket/prefix" and without_secrets(str(Path("/a/b"))) == "/a/b"
