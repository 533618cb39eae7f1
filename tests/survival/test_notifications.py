"""set_up on a real server: doing it twice changes nothing, and a run that fails is told to the webhook, with its link."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from house import House, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook's address, and what was posted to it."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", got
    server.shutdown()


def test_a_failed_run_is_told_with_its_link(house: House, posted: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, got = posted
    monkeypatch.setenv("PVTT_NOTIFY_WEBHOOK", address)
    for _ in range(2):
        house.services._module(house.api, "flows.set_up", "--pool", "local", "--notify")
    automations = house._call("post", "/automations/filter", {})
    names = ["pvtt: crashed runs", "pvtt: notify", "pvtt: runs that never began", "pvtt: runs that were never heard", "retrain on pushed clips"]
    assert sorted(a["name"] for a in automations) == names, "made once, however often"
    assert "127.0.0.1" not in json.dumps(automations), "the webhook's address is a secret"
    limits = house._call("post", "/v2/concurrency_limits/filter", {})
    assert [limit["limit"] for limit in limits if limit["name"] == "training-local"] == [1]
    run = house.start({"recipe": "nano", "clips": "/nowhere", "store": str(house.home / "stores" / "told")})
    assert house.wait(run, 120)[0] == "FAILED"
    wait_for(lambda: any(run in message["text"] for message in got), 60, "the message", house.tell)
    (message,) = [message for message in got if run in message["text"]]
    assert message["subject"] == "pvtt: Failed" and f"/runs/flow-run/{run}" in message["text"]
