"""One table a run, in the UI's artifacts and for `pvtt status`: what came out, how long it took, what it cost. Renewed after each artifact."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import FlowRunContext

from infra.held import so_far

KEY = "run-so-far"

#: Rows by flow run. A process runs one flow at a time; in a test several, one after the other.
_ROWS: dict[str, list[dict[str, Any]]] = {}
#: The artifact that shows them, by flow run.
_SHOWN: dict[str, UUID] = {}


@contextmanager
def told(name: str) -> Iterator[dict[str, Any]]:
    """A row for the artifact `name`, shown when the block ends well; whoever holds it may set 'how' (made, reused)."""
    context = FlowRunContext.get()
    begun, before = time.monotonic(), so_far()
    row: dict[str, Any] = {"artifact": name, "how": "made"}
    yield row
    after = so_far()
    row |= {
        "seconds": round(time.monotonic() - begun, 1),
        "gpu_hours": round((after.gpu_s - before.gpu_s) / 3600, 5),
        "worker_hours": round((after.worker_s - before.worker_s) / 3600, 5),
    }
    if context is None or context.flow_run is None:
        return
    run = str(context.flow_run.id)
    rows = _ROWS.setdefault(run, [])
    rows.append(row)
    gpu_h, worker_h = (sum(r[key] for r in rows) for key in ("gpu_hours", "worker_hours"))
    try:
        _show(run, rows, f"{len(rows)} artifacts; {gpu_h:.3g} GPU-hours, {worker_h:.3g} worker-hours")
    except Exception as error:
        _SHOWN.pop(run, None)
        get_run_logger().warning("the run's table could not be shown: %s", error)


def _show(run: str, rows: list[dict[str, Any]], description: str) -> None:
    """One artifact a run, renewed: the UI lists every artifact of a run, those of one key too."""
    if run in _SHOWN:
        with get_client(sync_client=True) as client:
            client.update_artifact(_SHOWN[run], ArtifactUpdate(data=json.dumps(rows), description=description))
    else:
        shown = create_table_artifact(rows, key=KEY, description=description)
        if isinstance(shown, UUID):
            _SHOWN[run] = shown
