"""The topology of infra/compose/compose.yaml as plain processes on 127.0.0.1: PostgreSQL, Redis, an S3 server (Ceph RGW), a Ray cluster of two
raylets, a Prefect server with basic auth, and a process worker. Every process is ours: `close` ends them all and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from infra.settings import REPOSITORY

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), Path("/nowhere"))
CEPH = REPOSITORY / "tests" / "infra" / "ceph_rgw.sh"
NEEDED = {
    "postgresql": POSTGRES / "initdb", "redis-server": "redis-server", "ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "radosgw": "radosgw",
    "util-linux": "runuser",
}  # fmt: skip
AUTH = ("pvtt", "a-password-of-this-test")
TERMINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
START_S = 180.0
RAYLET = ["--block", "--num-cpus=1", "--object-store-memory=200000000", "--disable-usage-stats"]


def missing() -> list[str]:
    """Debian packages to install first; and why it cannot be done at all."""
    absent = [package for package, program in NEEDED.items() if shutil.which(str(program)) is None]
    return absent + ([] if os.geteuid() == 0 else ["(run as root: PostgreSQL is started as its own user)"])


class Topology:
    """Started in the order of the compose file; `home` holds every state and log."""

    def __init__(self) -> None:
        self.home = Path(f"/tmp/pvtt-topology-{os.getpid()}")  # short: a unix socket's path holds 107 bytes
        self.home.mkdir(mode=0o711)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {name: free_port() for name in ("postgres", "redis", "s3", "ray", "prefect")}
        self.token = secrets.token_hex(32)  # of the Ray cluster
        self.seconds: dict[str, float] = {}
        self.s3 = f"http://127.0.0.1:{self.ports['s3']}"
        self.store = f"s3://pvtt/{uuid.uuid4().hex[:8]}"
        self.api = f"http://127.0.0.1:{self.ports['prefect']}/api"

    def up(self) -> None:
        for part in (self.postgres, self.redis, self.ceph, self.ray, self.server, self.deploy, self.worker):
            begun = time.monotonic()
            part()
            self.seconds[part.__name__] = round(time.monotonic() - begun, 1)

    # --- parts

    def postgres(self) -> None:
        data, port = self.home / "postgres", self.ports["postgres"]
        data.mkdir()
        shutil.chown(data, "postgres")
        (self.home / "run").mkdir()
        shutil.chown(self.home / "run", "postgres")
        as_postgres, at = ["runuser", "-u", "postgres", "--"], ["-h", "127.0.0.1", "-p", str(port)]
        make = [str(POSTGRES / "initdb"), "-D", str(data), "-A", "trust", "-E", "UTF8"]
        subprocess.run([*as_postgres, *make], cwd="/", check=True, capture_output=True)
        self.start("postgres", [*as_postgres, str(POSTGRES / "postgres"), "-D", str(data), *at, "-k", f"{self.home}/run"])
        ready = [str(POSTGRES / "pg_isready"), "-U", "postgres", *at]
        self.wait("postgres", lambda: subprocess.run(ready, capture_output=True).returncode == 0)
        subprocess.run([*as_postgres, str(POSTGRES / "createdb"), *at, "prefect"], cwd="/", check=True)

    def redis(self) -> None:
        port = self.ports["redis"]
        self.start("redis", ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(self.home)])
        self.wait("redis", lambda: open_port(port))

    def ceph(self) -> None:
        with (self.home / "ceph.log").open("ab") as log:
            subprocess.run([str(CEPH), "start", str(self.home / "ceph"), str(self.ports["s3"])], stdout=log, stderr=log, check=True, timeout=START_S)
        from infra.store.s3 import s3_client

        with environment(self.environment()):
            s3_client(self.s3).create_bucket(Bucket="pvtt")

    def ray(self) -> None:
        port = self.ports["ray"]
        head = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={self.home}/ray"]
        self.start("ray-head", ["ray", "start", *head, *RAYLET])
        self.wait("ray-head", lambda: open_port(port))
        time.sleep(5)  # the raylet of the head, which the port says nothing of
        self.raylet()
        code = "import ray, sys; ray.init(address=sys.argv[1], logging_level='error'); sys.exit(len([n for n in ray.nodes() if n['Alive']]) != 2)"
        ask = [sys.executable, "-c", code, f"127.0.0.1:{port}"]
        self.wait("ray-worker", lambda: subprocess.run(ask, cwd=REPOSITORY, env=self.environment(), capture_output=True).returncode == 0)

    def raylet(self) -> None:
        """The second node."""
        self.start("ray-worker", ["ray", "start", f"--address=127.0.0.1:{self.ports['ray']}", "--node-ip-address=127.0.0.1", *RAYLET])

    def gateway(self) -> None:
        """The S3 server alone; its data lie in the OSD, which goes on."""
        os.environ["CEPH_CONF"] = str(self.home / "ceph" / "ceph.conf")
        subprocess.run(["radosgw", "-n", "client.rgw"], check=True, capture_output=True)

    def kill_gateway(self) -> None:
        os.kill(int((self.home / "ceph" / "client.rgw.pid").read_text()), signal.SIGKILL)

    def cut_database(self) -> int:
        """Every connection of the server to PostgreSQL, as a failing network would; how many."""
        ask = ["psql", "-h", "127.0.0.1", "-p", str(self.ports["postgres"]), "-U", "postgres", "-tA", "-d", "postgres", "-c"]
        kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = 'prefect'"
        return int(subprocess.run([*ask, kill], check=True, capture_output=True, text=True).stdout)

    def server(self) -> None:
        at = ["--host", "127.0.0.1", "--port", str(self.ports["prefect"])]
        self.start("server", [sys.executable, "-m", "prefect", "server", "start", *at])
        self.wait("server", lambda: self.call("get", "/health", timeout=2) is True)

    def deploy(self) -> None:
        self.command("flows.set_up", "--pool", "local")
        self.command("prefect", "deploy", "--no-prompt", "--name", "full-curriculum", "--name", "retrain")

    def worker(self) -> None:
        self.start("worker", [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--type", "process", "--name", "topology"])

    # --- processes

    def environment(self) -> dict[str, str]:
        redis, database = f"redis://127.0.0.1:{self.ports['redis']}", f"postgresql+asyncpg://postgres@127.0.0.1:{self.ports['postgres']}/prefect"
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_", "RAY_", "PVTT_"))}
        return env | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [env.get("PYTHONPATH")])]),
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_UI_URL": self.api.removesuffix("/api"),
            "PREFECT_UI_API_URL": "/api",
            "PREFECT_SERVER_API_AUTH_STRING": ":".join(AUTH),
            "PREFECT_API_AUTH_STRING": ":".join(AUTH),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
            "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_REDIS_MESSAGING_URL": f"{redis}/0",
            "PREFECT_SERVER_DOCKET_URL": f"{redis}/1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_CLI_COLORS": "false",
            "PVTT_HOME": str(self.home / "pvtt"),
            "PVTT_STORE": self.store,
            "PVTT_NUM_CPUS": "2",
            "PVTT_MAX_WORKERS": "2",
            "RAY_ADDRESS": f"127.0.0.1:{self.ports['ray']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "AWS_ENDPOINT_URL_S3": self.s3,
            "AWS_ACCESS_KEY_ID": "AK",
            "AWS_SECRET_ACCESS_KEY": "SKSKSKSK",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self, name: str, command: list[str]) -> None:
        """A process of a group of its own, its output in <home>/<name>.log."""
        cwd = "/" if name == "postgres" else str(REPOSITORY)
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=cwd, env=self.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def kill(self, name: str, sign: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill_flows(self) -> None:
        """The flow runs' processes, which outlive their worker: a machine that goes takes both."""
        for pid in self.ours():
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"prefect.engine" in title or b"prefect.flow_engine" in title:
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End everything, the other way round; then what a killed parent of ours left, known by its PVTT_HOME."""
        for name in [*reversed(self.processes)]:
            self.kill(name, signal.SIGINT if name == "postgres" else signal.SIGTERM)
        subprocess.run([str(CEPH), "stop", str(self.home / "ceph")], check=False)
        for pid in self.ours():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)

    def ours(self) -> list[int]:
        mark, found = f"PVTT_HOME={self.home}/pvtt".encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
        return found

    def titles(self, *beginnings: str) -> list[str]:
        """Titles of our processes that begin so."""
        found = []
        for pid in self.ours():
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
        return [title for title in found if title.startswith(beginnings)]

    def command(self, *arguments: str) -> str:
        """python -m ... in this topology's environment; its output. Raises where it fails."""
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=REPOSITORY, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    # --- Prefect

    def call(self, method: str, path: str, body: Any = None, timeout: float = 60) -> Any:
        """None where the server does not answer."""
        try:
            answer = httpx.request(method, f"{self.api}{path}", auth=AUTH, timeout=timeout, **({"json": body} if body is not None else {}))
        except httpx.TransportError:
            return None
        answer.raise_for_status()
        return answer.json()

    def run(self, parameters: dict[str, Any], deployment: str = "pvtt/full-curriculum") -> str:
        """`prefect deployment run`; the flow run's id."""
        pairs = [part for key, value in parameters.items() for part in ("--param", f"{key}={json.dumps(value)}")]
        text = self.command("prefect", "deployment", "run", deployment, *pairs)
        return text.split("UUID:")[1].split()[0]

    def state(self, run: str) -> str:
        found = self.call("get", f"/flow_runs/{run}")
        return found["state"]["type"] if found else "?"

    def ended(self, run: str, timeout_s: float) -> str:
        self.wait(f"run {run}", lambda: self.state(run) in TERMINAL, timeout_s, poll_s=2.0)
        return self.state(run)

    def task_runs(self, run: str) -> list[dict[str, Any]]:
        return self.call("post", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})

    def wait(self, what: str, ready: Callable[[], bool], timeout_s: float = START_S, poll_s: float = 0.5) -> float:
        begun = time.monotonic()
        while not ready():
            dead = what in self.processes and self.processes[what].poll() is not None
            if dead or time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"{what} {'ended' if dead else f'not ready after {timeout_s:.0f} s'}\n{self.tell()}")
            time.sleep(poll_s)
        return time.monotonic() - begun

    def tell(self) -> str:
        logs = sorted(self.home.glob("*.log"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:]) for log in logs)


@contextlib.contextmanager
def environment(wanted: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def open_port(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Below 32768, where the kernel takes no port for a connection meanwhile; Ceph takes the two after it as well."""
    start = 20000 + (os.getpid() * 37) % 9000
    for port in range(start, 32000, 7):
        if port not in free_port.given and not any(open_port(p) for p in range(port, port + 3)):  # type: ignore[attr-defined]
            free_port.given.add(port)  # type: ignore[attr-defined]
            return port
    raise RuntimeError("no free port")


free_port.given = set()  # type: ignore[attr-defined]
