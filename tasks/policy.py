"""What every task shares: retries by kind of failure, and the pattern 'find the artifact, else make it, then show it'."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from prefect import get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from infra.artifact_store import ArtifactStore
from infra.failures import WorkerLost, can_pass, kind_of
from infra.python_gc import few_collections
from infra.settings import settings
from infra.worker_log import heard_by
from pvtt_model.artifacts import ArtifactRef, Manifest, Planned
from tasks.run_page import told

RETRIES = 5  # after about 2, 4, 8, 16 and 32 s: more than a minute, in which a server restarts
LOST_RETRIES = 2  # Ray has tried what was lost several times already


def worth_retrying(task: Any, run: Any, state: Any) -> bool:
    """Whether the failure may pass by itself. Says in the log which kind it was."""
    try:
        state.result()
    except WorkerLost as error:
        return _said(error, can_pass(error) and run.run_count <= LOST_RETRIES)
    except Exception as error:
        return _said(error, can_pass(error))
    return True


def _said(error: Exception, again: bool) -> bool:
    get_run_logger().warning("failed (%s: %s); %s", kind_of(error), type(error).__name__, "tried again" if again else "not tried again")
    return again


#: Store and manifest say what is done, so Prefect's own cache stays off: it cannot know that a store was emptied.
POLICY: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


def produce(
    planned: Planned,
    store_uri: str,
    make: Callable[[ArtifactStore, Planned], Manifest],
    show: Callable[[ArtifactStore, Manifest], None],
) -> ArtifactRef:
    """The artifact, found or made; then shown in the UI. Two runs after the same artifact do not work side by side: the second waits."""
    few_collections()
    log = get_run_logger()
    store = ArtifactStore.open(store_uri, settings(store_uri).cache)
    with told(planned.name) as row:
        found = store.find(planned)
        if found is not None:
            log.info("%s is there already, made %s: reused", planned.name, found.created)
            row["how"] = "reused"
        else:
            waiting = _Waiting(log, planned)
            with store.lease(planned, on_wait=waiting.say) as lease:
                found = lease.done or store.find(planned)
                if found is None:
                    log.info("making %s", planned.name)
                    with heard_by(log.info):
                        found = make(store, planned)
                else:
                    row["how"] = "reused"
    show(store, found)
    return store.ref(found)


class _Waiting:
    """Says every ten seconds whom we wait for."""

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[Any], planned: Planned) -> None:
        self.log, self.planned, self.next_s = log, planned, 0.0

    def say(self, waited_s: float, holder: Any) -> None:
        if waited_s >= self.next_s:
            self.log.info("%s is being made by process %s on %s; waiting (%.0f s)", self.planned.name, holder.pid, holder.host, waited_s)
            self.next_s = waited_s + 10
