"""A Prefect server on SQLite and a process worker for this checkout, as plain processes on 127.0.0.1. `up` starts what is missing, `down` stops
what `up` started and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from infra.settings import REPOSITORY, Settings
from pvtt_model.artifacts import digest

POOL = "local"
FIRST_PORT = 4200
START_TIMEOUT_S = 120.0


class Service(BaseModel):
    """One running process: its group is ended as a whole."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int
    started: str  # the process's start time, so that a recycled pid is not taken for ours
    log: str
    port: int | None = None
    environment: str = ""  # digest of what it was started with and passes on to its runs


class LocalServices:
    """The server and worker whose state lies in <home>/services."""

    def __init__(self, settings: Settings, say: Callable[[str], None] = print) -> None:
        self.settings, self.say = settings, say
        self.folder = settings.home / "services"

    # --- up

    def up(self) -> str:
        """Start what is not running, deploy prefect.yaml; returns the server's API address."""
        self.folder.mkdir(parents=True, exist_ok=True)
        server = self._running("server")
        if server is None:
            port = free_port(self._port_before() or FIRST_PORT)
            self.say(f"starting the Prefect server on http://127.0.0.1:{port}")
            server = self._start("server", ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)], port)
        self._wait_healthy(server)
        api = f"http://127.0.0.1:{server.port}/api"
        if self._deploy_needed():
            self.say("deploying prefect.yaml")
            self._module(api, "flows.set_up", "--pool", POOL)
            self._module(api, "prefect", "deploy", "--no-prompt", *(part for name in deployments_of(POOL) for part in ("--name", name)))
            self._module(api, "flows.on_push", "automate")
            (self.folder / "deployed").write_text(self._deploy_key())
        worker = self._running("worker")
        if worker is not None and worker.environment != self._environment_digest():
            self.say("the environment has changed (store, credentials, Ray): restarting the worker")
            _end([worker.pid])
            worker = None
        if worker is None:
            self.say(f"starting a process worker on pool '{POOL}'")
            self._start("worker", ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", f"pvtt-{os.getpid()}"], None, api)
        return api

    def _mark(self) -> str:
        return f"PVTT_SERVICES={self.folder}"

    def environment(self, api: str | None = None) -> dict[str, str]:
        """The environment of every Prefect process of this checkout: own home, no telemetry, the API where it is known. No project: the worker
        serves all of them, and a run's own is its parameter."""
        env = dict(os.environ)
        env.update(
            PREFECT_HOME=str(self.settings.home / "prefect"),
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            DO_NOT_TRACK="1",
            PREFECT_CLI_COLORS="false",
            PREFECT_LOGGING_LEVEL=env.get("PREFECT_LOGGING_LEVEL", "INFO"),
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",  # by it a run whose process is gone is found: flows/set_up.py
            PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE="prefect.server.concurrency.lease_storage.filesystem",  # in memory, a restart leaks the slots
            PVTT_HOME=str(self.settings.home),
            PVTT_SERVICES=str(self.folder),
            PVTT_STORE=self.settings.store_pattern,
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}",
            OMP_WAIT_POLICY="PASSIVE",
        )
        env.pop("PREFECT_API_URL", None)
        env.pop("PVTT_PROJECT", None)
        if api:
            env["PREFECT_API_URL"] = api
        return env

    # --- down

    def down(self) -> list[str]:
        """Stop worker and server, and the runs they started (known by a mark in their environment, even where their parent was killed)."""
        stopped = []
        for name in ("worker", "server"):
            service = self._running(name)
            if service is not None:
                _end([service.pid])
                stopped.append(name)
            (self.folder / f"{name}.json").unlink(missing_ok=True)
        runs = marked(self._mark())
        _end(runs)
        if runs:
            stopped.append(f"{len(runs)} processes of runs")
        return stopped

    def api(self) -> str | None:
        """The server of PREFECT_API_URL, else the one that `up` started; None where there is neither."""
        given = os.environ.get("PREFECT_API_URL")
        if given:
            return given
        server = self._running("server")
        return f"http://127.0.0.1:{server.port}/api" if server else None

    def running(self) -> list[Service]:
        """What `up` started and still runs."""
        return [s for s in (self._running("server"), self._running("worker")) if s is not None]

    # --- parts

    def _start(self, name: str, command: list[str], port: int | None, api: str | None = None) -> Service:
        log = self.folder / f"{name}.log"
        environment = self.environment(api)
        if port is not None:
            environment.setdefault("PREFECT_UI_URL", f"http://127.0.0.1:{port}")  # for the links in its messages
            environment.setdefault("PREFECT_UI_API_URL", "/api")  # else its pages ask 127.0.0.1:4200, whatever the port, through a tunnel too
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=REPOSITORY, env=environment, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        service = Service(
            name=name, pid=process.pid, started=_start_time(process.pid) or "", log=str(log), port=port, environment=self._environment_digest()
        )
        (self.folder / f"{name}.json").write_text(service.model_dump_json())
        return service

    def _running(self, name: str) -> Service | None:
        record = self.folder / f"{name}.json"
        if not record.exists():
            return None
        service = Service.model_validate_json(record.read_text())
        return service if service.started and _start_time(service.pid) == service.started else None

    def _port_before(self) -> int | None:
        """Where a server that died stood: runs that live on look for it there."""
        record = self.folder / "server.json"
        return Service.model_validate_json(record.read_text()).port if record.exists() else None

    def _wait_healthy(self, server: Service) -> None:
        started = time.monotonic()
        while time.monotonic() - started < START_TIMEOUT_S:
            if self._running("server") is None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/api/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        tail = "\n".join(Path(server.log).read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"the Prefect server did not come up within {START_TIMEOUT_S:.0f} s. Its last words ({server.log}):\n{tail}")

    def _environment_digest(self) -> str:
        """Of the variables a run takes from its worker; a digest, since credentials are among them."""
        wanted = {k: v for k, v in self.environment().items() if k.startswith(("PVTT_", "AWS_", "RAY_", "HF_")) and k != "PVTT_STORE"}
        return digest(wanted)

    def _deploy_key(self) -> str:
        """What a deployment depends on: the file, and the flows' parameters."""
        flows = sorted((REPOSITORY / "flows").glob("*.py"))
        return json.dumps({p.name: p.stat().st_mtime_ns for p in [REPOSITORY / "prefect.yaml", *flows]})

    def _deploy_needed(self) -> bool:
        mark = self.folder / "deployed"
        return not mark.exists() or mark.read_text() != self._deploy_key()

    def _module(self, api: str, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=REPOSITORY, env=self.environment(api), stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"'{' '.join(arguments)}' failed:\n{(done.stdout + done.stderr)[-2000:]}")


def deployments_of(pool: str) -> list[str]:
    """The names of prefect.yaml's deployments on a work pool."""
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    return [d["name"] for d in deployments if d["work_pool"]["name"] == pool]


def free_port(first: int) -> int:
    """`first` where it is free on 127.0.0.1, else any free port."""
    for port in (first, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port on 127.0.0.1")


def _start_time(pid: int) -> str | None:
    """The process's start time in clock ticks since boot, or None where it is gone (a zombie too)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def marked(mark: str) -> list[int]:
    """Living processes whose environment holds `mark` (NAME=value), without this one."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        pid = int(place.name)
        try:
            variables = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in variables and pid != os.getpid() and _start_time(pid) is not None:
            found.append(pid)
    return sorted(found)


def _end(pids: Sequence[int], patience_s: float = 15.0) -> None:
    """SIGTERM, then SIGKILL to what is left after `patience_s`."""
    left = {pid: _start_time(pid) for pid in pids}
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            left = {pid: started for pid, started in left.items() if started and _start_time(pid) == started}
            if not left:
                return
            time.sleep(0.2)
