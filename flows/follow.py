"""Follow one flow run in the terminal: its tasks as they start and end, what is in progress, and at the end its message.

python -m flows.follow FLOW_RUN_ID        exit status 0 where the run ended Completed
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import TaskRunSort
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

POLL_S = 1.0
MARKS = {"COMPLETED": "[green]done[/]", "FAILED": "[red]failed[/]", "CRASHED": "[red]crashed[/]", "CANCELLED": "[yellow]cancelled[/]"}


class Follower:
    """Prints each task once when it ends, and keeps one line a running task."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: dict[UUID, Any] = {}
        self.said: set[UUID] = set()
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=console,
        )

    async def follow(self, client: PrefectClient, run_id: UUID) -> bool:
        """Until the run is final. True where it ended Completed."""
        last: str | None = ""
        unreachable_since: float | None = None
        with self.progress:
            while True:
                try:
                    run = await client.read_flow_run(run_id)
                    name = run.state.name if run.state else "?"
                    if name != last:
                        self.console.print(f"[bold]{run.name}[/]: {name}")
                        last = name
                    await self._tasks(client, run_id)
                    unreachable_since = None
                    if run.state is not None and run.state.is_final():
                        break
                except Exception as error:  # a restarted server: the run itself goes on
                    unreachable_since = unreachable_since or time.monotonic()
                    if time.monotonic() - unreachable_since > 120:
                        raise RuntimeError(f"the Prefect server has not answered for 120 s: {error}") from error
                await asyncio.sleep(POLL_S)
        self.console.print(run.state.message or "", markup=False, highlight=False)
        return run.state.is_completed()

    async def _tasks(self, client: PrefectClient, run_id: UUID) -> None:
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        tasks = await client.read_task_runs(flow_run_filter=of_run, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=200)
        percents = await self._percents(client, run_id)
        for task in reversed(tasks):
            state = task.state
            if state is None or task.id in self.said:
                continue
            if state.is_final():
                seconds = task.total_run_time.total_seconds()
                self.console.print(f"  {MARKS.get(state.type.value, state.name):<18} {task.name}  ({seconds:.1f} s)", highlight=False)
                self.said.add(task.id)
                if task.id in self.bars:
                    self.progress.remove_task(self.bars.pop(task.id))
            elif state.is_running():
                if task.id not in self.bars:
                    self.bars[task.id] = self.progress.add_task(task.name, total=100)
                percent, note = percents.get(task.id, (None, ""))
                if percent is not None:
                    self.progress.update(self.bars[task.id], completed=percent, description=note or task.name)

    async def _percents(self, client: PrefectClient, run_id: UUID) -> dict[UUID, tuple[float, str]]:
        """Progress of each task, from its progress artifact."""
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]), type=ArtifactFilterType(any_=["progress"])), limit=200
        )
        return {a.task_run_id: (float(a.data or 0), a.description or "") for a in found if a.task_run_id is not None}  # type: ignore[arg-type]


async def follow(run_id: str) -> bool:
    async with get_client() as client:
        return await Follower(Console(width=140 if not sys.stdout.isatty() else None)).follow(client, UUID(run_id))


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(follow(sys.argv[1])) else 1)
