"""One table a run, in the UI's artifacts and for `pvtt status`: what came out, how long it took, what it cost. Renewed after each artifact."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext

from infra.held import so_far

KEY = "run-so-far"

#: Rows by flow run. A process runs one flow at a time; in a test several, one after the other.
_ROWS: dict[str, list[dict[str, Any]]] = {}


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
    rows = _ROWS.setdefault(str(context.flow_run.id), [])
    rows.append(row)
    gpu_h, worker_h = (sum(r[key] for r in rows) for key in ("gpu_hours", "worker_hours"))
    try:
        create_table_artifact(rows, key=KEY, description=f"{len(rows)} artifacts; {gpu_h:.3g} GPU-hours, {worker_h:.3g} worker-hours")
    except Exception as error:
        get_run_logger().warning("the run's table could not be shown: %s", error)
