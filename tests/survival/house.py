"""A real Prefect server and process worker with a home of their own, the runs made on them, and their processes, to be watched and killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

import infra.local_services
from infra.local_services import LocalServices, free_port
from infra.settings import Settings

TERMINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
RAY_NAMES = ("ray::", "raylet", "gcs_server")
#: Idle; they end by themselves about 62 s after the raylet's death, when their last message to the dead GCS has timed out.
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


class Process(NamedTuple):
    """A living process: pid, start time (ticks since boot) and title."""

    pid: int
    started: str
    title: str

    def alive(self) -> bool:
        return _started(self.pid) == self.started

    def kill(self) -> None:
        """SIGKILL, to this very process and nothing else."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)


class House:
    """Server, worker and all that they start carry PVTT_HOME=<home> in their environment: by that they are told from other people's."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        os.environ.update(environment)  # the worker's, and by it the flow run's and Ray's
        infra.local_services.FIRST_PORT = free_port(0)  # a server of another house may be starting on 4200
        self.services = LocalServices(Settings(home=home, store=str(home / "store"), num_cpus=2, ray_address=None))
        self.api = ""

    # --- services

    def up(self) -> None:
        self.api = self.services.up()

    def worker(self) -> Process:
        (found,) = [s for s in self.services.running() if s.name == "worker"]
        return Process(found.pid, found.started, "worker")

    def restart_server(self, down_s: float = 0.0) -> None:
        """SIGKILL to the server; after `down_s` it is there again, on the same port."""
        (found,) = [s for s in self.services.running() if s.name == "server"]
        os.killpg(found.pid, signal.SIGKILL)  # it serves from a process of its own, in the group that `up` made
        time.sleep(max(down_s, 1.0))
        self.up()

    def down(self) -> None:
        """Stop the services, then whatever of ours is left."""
        self.services.down()
        for process in self.processes():
            process.kill()

    def end_runs(self) -> None:
        """Kill what is left of the runs (an orphan of a failed test), not the services."""
        for process, environment in _every_process():
            if self._mark() in environment and any(line.startswith(b"PREFECT__FLOW_RUN_ID=") for line in environment):
                process.kill()

    # --- runs

    def start(self, parameters: dict[str, Any], deployment: str = "pvtt/full-curriculum") -> str:
        """As `prefect deployment run` does; returns the flow run's id."""
        found = self._call("get", f"/deployments/name/{deployment}")["id"]
        return str(self._call("post", f"/deployments/{found}/create_flow_run", {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"])

    def state(self, run: str) -> tuple[str, str]:
        """(type, message) of the run's state."""
        state = self._call("get", f"/flow_runs/{run}")["state"]
        return state["type"], state["message"] or ""

    def wait(self, run: str, timeout_s: float) -> tuple[str, str]:
        """The run's final state."""
        wait_for(lambda: self.state(run)[0] in TERMINAL, timeout_s, f"run {run} to end", self.tell)
        return self.state(run)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = httpx.request(method, f"{self.api}{path}", timeout=60, **({"json": body} if body is not None else {}))
        answer.raise_for_status()
        return answer.json()

    # --- processes

    def processes(self) -> list[Process]:
        """Every living process of this house."""
        return [p for p, environment in _every_process() if self._mark() in environment]

    def flow_process(self, run: str) -> Process:
        """The process that runs the flow's code (not what it has started)."""
        marks = (self._mark(), f"PREFECT__FLOW_RUN_ID={run}".encode())

        def found() -> list[Process]:
            every = [p for p, environment in _every_process() if all(m in environment for m in marks)]
            return [p for p in every if "prefect.engine" in p.title or "prefect.flow_engine" in p.title]

        wait_for(lambda: bool(found()), 60, f"the process of run {run}", self.tell)
        return found()[-1]

    def ray_processes(self, agents: bool = False) -> list[Process]:
        """Ray's workers, raylets and GCS; its two agents a node too, where asked for."""
        found = [p for p in self.processes() if any(name in p.title for name in RAY_NAMES)]
        return [p for p in found if agents or not p.title.startswith(RAY_AGENTS)]

    def _mark(self) -> bytes:
        return f"PVTT_HOME={self.home}".encode()

    def tell(self) -> str:
        """What is going on, for a failed test's message."""
        log = Path(self.services.folder / "worker.log")
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-60:]) if log.exists() else ""
        titles = "\n".join(f"{p.pid} {p.title[:110]}" for p in self.processes())
        return f"processes:\n{titles}\n\nworker's log:\n{tail}"


def wait_for(ready: Callable[[], Any], timeout_s: float, what: str, tell: Callable[[], str] = str, poll_s: float = 0.5) -> float:
    """Poll until `ready()` is true; returns the seconds waited. Raises TimeoutError that tells what was going on."""
    begun = time.monotonic()
    while not ready():
        if time.monotonic() - begun > timeout_s:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}\n{tell()}")
        time.sleep(poll_s)
    return time.monotonic() - begun


def _every_process() -> Iterator[tuple[Process, list[bytes]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        started = _started(int(folder.name))
        if started:
            yield Process(int(folder.name), started, title), environment


def _started(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
