"""What runs, how long still, what it cost, what came out: for a terminal, and for Prometheus.

python -m flows.status            the runs that are not over, and the last ones that are
python -m flows.status --json     the same as JSON
python -m flows.status --project mugs   of this project alone
python -m flows.status --metrics  the same as Prometheus's text; with --port N served on 127.0.0.1:N/metrics
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, Artifact, FlowRun, StateType
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prometheus_client.core import CollectorRegistry, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.project import PROJECT_TAG
from tasks.run_page import KEY

OVER = 5  # runs that are over, of which is told
MOST = 200


class Doing(NamedTuple):
    """A task that runs: percent done, and its words ('encoding latents: 512 of 1216 clips 6.9/s, 28 s left')."""

    task: str
    percent: float | None
    words: str


class Seen(NamedTuple):
    """A run as it stands. seconds: since its start, of a run that is over until its end."""

    id: str
    name: str
    flow: str
    state: str
    seconds: float
    doing: list[Doing]
    made: list[dict[str, Any]]  # rows of tasks/run_page.py
    message: str
    project: str = ""

    @property
    def gpu_hours(self) -> float:
        return sum(row["gpu_hours"] for row in self.made)

    @property
    def worker_hours(self) -> float:
        return sum(row["worker_hours"] for row in self.made)


async def seen(client: PrefectClient, over: int = OVER, project: str | None = None) -> list[Seen]:
    """Runs that are not over (scheduled ones only where they are late), then the last `over` that are; newest first. Of one project or of all."""
    open_states = [state for state in StateType if state not in TERMINAL_STATES and state != StateType.SCHEDULED]
    running = await _runs(client, open_states, MOST, project)
    ended = await _runs(client, list(TERMINAL_STATES), over, project)
    flows = {flow.id: flow.name for flow in await client.read_flows(limit=MOST)}
    return [await _seen(client, run, flows.get(run.flow_id, "?")) for run in [*running, *ended]]


async def _runs(client: PrefectClient, states: Sequence[StateType], limit: int, project: str | None) -> list[FlowRun]:
    tags = FlowRunFilterTags(all_=[f"{PROJECT_TAG}{project}"]) if project else None
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))), tags=tags)
    return await client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_DESC, limit=limit) if limit else []


async def _seen(client: PrefectClient, run: FlowRun, flow: str) -> Seen:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    artifacts = await client.read_artifacts(artifact_filter=of_run, sort=ArtifactSort.UPDATED_DESC, limit=MOST)
    pages = [a for a in artifacts if a.key == KEY]
    made = json.loads(pages[0].data) if pages and isinstance(pages[0].data, str) else []
    state = run.state
    ended = run.end_time or datetime.now(UTC)
    return Seen(
        id=str(run.id),
        name=run.name,
        flow=flow,
        state=state.name if state and state.name else "?",
        seconds=(ended - run.start_time).total_seconds() if run.start_time else 0.0,
        doing=await _doing(client, run, artifacts) if state and not state.is_final() else [],
        made=made,
        message=(state.message or "") if state and state.is_final() else "",
        project=next((tag.removeprefix(PROJECT_TAG) for tag in run.tags if tag.startswith(PROJECT_TAG)), ""),
    )


async def _doing(client: PrefectClient, run: FlowRun, artifacts: Sequence[Artifact]) -> list[Doing]:
    progress = {a.task_run_id: a for a in reversed(artifacts) if a.type == "progress"}
    tasks = await client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])), limit=MOST)
    found = []
    for task in tasks:
        if task.state is not None and task.state.is_running():
            at = progress.get(task.id)
            found.append(
                Doing(task.name, float(at.data) if at is not None and isinstance(at.data, (int, float)) else None, (at and at.description) or "")
            )
    return found


# --- for people


def as_table(runs: Sequence[Seen]) -> Table:
    table = Table("run", "state", "for", "doing, and how long still", "cost", "came out", box=None, pad_edge=False)
    for run in runs:
        doing = "\n".join(f"{d.words or d.task}{'' if d.percent is None else f' ({d.percent:.0f} %)'}" for d in run.doing)
        cost = f"{run.gpu_hours:.2f} GPU-h\n{run.worker_hours:.2f} worker-h" if run.made else ""
        new = [row["artifact"] for row in run.made if row["how"] == "made"]
        out = "\n".join([*new, *([f"{len(run.made) - len(new)} reused"] if len(run.made) > len(new) else []), *run.message.splitlines()[:3]])
        table.add_row(f"{escape(run.name)}\n{run.id[:8]} {run.flow}", run.state, span(run.seconds), escape(doing), cost, escape(out))
    return table


def span(seconds: float) -> str:
    """'42 s', '3 min', '2.5 h'."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# --- for Prometheus


class Collected:
    """A collector of prometheus_client, of one look at the server."""

    def __init__(self, runs: Sequence[Seen]) -> None:
        self.runs = runs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        labels = ["flow", "run", "run_id", "project", "state"]
        families = {
            "pvtt_run_seconds": ("since the run's start, until its end", lambda r: r.seconds),
            "pvtt_run_gpu_seconds": ("GPU seconds that its finished artifacts took", lambda r: 3600 * r.gpu_hours),
            "pvtt_run_worker_seconds": ("seconds of worker processes that its finished artifacts took", lambda r: 3600 * r.worker_hours),
            "pvtt_run_artifacts_made": ("artifacts that it made", lambda r: sum(row["how"] == "made" for row in r.made)),
        }
        for name, (words, value) in families.items():
            family = GaugeMetricFamily(name, words, labels=labels)
            for run in self.runs:
                family.add_metric([run.flow, run.name, run.id, run.project, run.state], value(run))
            yield family
        progress = GaugeMetricFamily("pvtt_task_progress_ratio", "of a task that runs, 0 to 1", labels=["flow", "run", "run_id", "project", "task"])
        for run in self.runs:
            for doing in run.doing:
                if doing.percent is not None:
                    progress.add_metric([run.flow, run.name, run.id, run.project, doing.task], doing.percent / 100)
        yield progress


def as_metrics(runs: Sequence[Seen]) -> bytes:
    registry = CollectorRegistry()
    registry.register(Collected(runs))
    return generate_latest(registry)


def serve(port: int, project: str | None = None) -> None:
    """GET /metrics on 127.0.0.1, a look at the Prefect server each time; 503 where that does not answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "only /metrics is here")
                return
            try:
                text = as_metrics(asyncio.run(look(project)))
            except Exception as error:
                self.send_error(503, f"the Prefect server does not answer: {type(error).__name__}")
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """A line a scrape is no news."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"http://127.0.0.1:{server.server_port}/metrics", flush=True)
    server.serve_forever()


async def look(project: str | None = None) -> list[Seen]:
    async with get_client() as client:
        return await seen(client, project=project)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--port", type=int)
    parser.add_argument("--project")
    given = parser.parse_args()
    if given.metrics and given.port is not None:
        serve(given.port, given.project)
        return
    runs = asyncio.run(look(given.project))
    if given.metrics:
        print(as_metrics(runs).decode(), end="")
    elif given.json:
        print(json.dumps([run._asdict() | {"gpu_hours": run.gpu_hours, "worker_hours": run.worker_hours} for run in runs], indent=1))
    else:
        console = Console()
        console = console if console.is_terminal else Console(width=180)
        console.print(as_table(runs) if runs else "no run yet")
        console.print(time.strftime("%H:%M:%S"), style="dim")


if __name__ == "__main__":
    main()
