"""Not more trainings at a time on a work pool than its limit says: two on one machine would share its GPUs, and each find them full.

A global concurrency limit with a lease: it counts trainings, not runs, so that one run curates while another trains; a holder that was killed
gives its slot back when the lease ends, where the server keeps leases over its restart (PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE). Never needed
for a right result: without a server that answers, training goes on without a slot and says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from httpx import HTTPStatusError
from prefect import get_run_logger
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext

LEASE_S = 180.0  # longer than a server's restart
ASK_S = 3.0
PATIENCE_S = 120.0  # with a server that does not answer
LOCKED = 423


def limit_of(pool: str) -> str:
    """The name of a work pool's limit."""
    return f"training-{pool}"


@contextmanager
def training_slot() -> Iterator[None]:
    """Hold one of the pool's slots, waiting for it as long as it takes. A run that no deployment started has no pool, and waits for nobody."""
    context = FlowRunContext.get()
    pool = context.flow_run.work_pool_name if context and context.flow_run else None
    with ExitStack() as stack:
        if pool:
            _take(stack, limit_of(pool))
        yield


def _take(stack: ExitStack, limit: str) -> None:
    log, said, silent_since = get_run_logger(), False, None
    while True:
        try:
            stack.enter_context(concurrency(limit, max_retries=0, lease_duration=LEASE_S, raise_on_lease_renewal_failure=False))
            return
        except ConcurrencySlotAcquisitionError as error:
            cause = error.__cause__
            if isinstance(cause, HTTPStatusError) and cause.response.status_code == LOCKED:
                silent_since = None
                if not said:
                    log.info("waiting: another training holds the slot of '%s'", limit)
                    said = True
            else:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE_S:
                    log.warning("no slot of '%s' to be had (%s); training goes on without, perhaps beside another one", limit, error)
                    return
        time.sleep(ASK_S)
