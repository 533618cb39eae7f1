"""Ray: start it, map a function over shards (ray_pool.py), run a distributed training.

A local Ray is started in this process where RAY_ADDRESS names no cluster; it dies with it (also by SIGKILL), so nothing is left over.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray

from infra import termination
from infra.failures import TrainingFailed, WorkerLost, can_pass, kind_of
from infra.held import counted
from infra.python_gc import few_collections, usual_collections
from infra.ray_pool import forget_idle, map_on_actors
from infra.settings import Settings
from infra.worker_log import hear_workers

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Spinning OpenMP waits slow two processes on two cores about 30-fold.
WORKER_ENV = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
#: What workers on a cluster must know to reach the same store. No credential: Ray logs it. Those lie on the nodes (boto3's chain, HF_TOKEN).
PASSED_ON = (
    "PVTT_HOME", "PVTT_STORE", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE",
    "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "DS_ACCELERATOR", "PVTT_CACHE", "PVTT_CODE_COMMIT", "PVTT_PREFLIGHT",
    "PVTT_BUCKETS",
)  # fmt: skip


#: The board's key for an error that no restart can mend.
HOPELESS = "hopeless"


def start_ray(settings: Settings) -> None:
    """Connect to the cluster, or start a local one. A second call does nothing while the first one's Ray answers."""
    if ray.is_initialized():
        try:
            ray.cluster_resources()
            return
        except Exception:
            stop_ray()
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if settings.ray_address:
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        env = {"env_vars": {**WORKER_ENV, **passed}}
        told: dict[str, Any] = {"address": settings.ray_address, "runtime_env": env}
    else:
        # A local Ray's workers inherit this environment; a runtime_env would put credentials into Ray's logs.
        os.environ.update(WORKER_ENV)
        _keep_bytecode(settings)
        for name in ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "RAY_TRAIN_METRICS_ENABLED"):
            os.environ.setdefault(name, "0")  # processes of Ray's own that one machine does not need
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # Ray's 2 s would pass before a finished training is seen
        # Idle workers stay: they have loaded torch and diffusers, which takes longer than most of their work. A training's own processes
        # (its workers, board, controller, barrier) count too, and must not drive out those that edit and score after it.
        os.environ.setdefault("RAY_num_workers_soft_limit", str(2 * settings.num_cpus + 4))
        forget_idle()
        # "local": without it Ray would join whatever Ray is found on this machine, another user's or a test's.
        told = {"address": "local", "num_cpus": settings.num_cpus, "include_dashboard": False}
    with _sigterm_kept():
        ray.init(**told, logging_level="warning")
    hear_workers()


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """ray.init puts its own SIGTERM handler, sys.exit, in the place of what is there: Prefect's, by which a flow that is cancelled knows that it was
    cancelled. Without it such a run ended as Crashed, or as Cancelled, as chance had it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _keep_bytecode(settings: Settings) -> None:
    """Where Python is told to write no bytecode, the workers write it under PVTT_HOME: each would compile 5,000 modules anew, 10 s of CPU."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(settings.cache / "bytecode"))


def stop_ray() -> None:
    forget_idle()
    ray.shutdown()


def must_fit(cpus: float, gpus: float, what: str, settings: Settings) -> None:
    """Refuse work that a local Ray could never schedule: it would wait for ever. A cluster may grow, so there it is Ray's to say."""
    have = ray.cluster_resources()
    if not settings.ray_address and (have.get("CPU", 0) < cpus or have.get("GPU", 0) < gpus):
        raise ValueError(
            f"{what} needs {cpus:g} CPUs and {gpus:g} GPUs; this machine's Ray has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}. "
            "Set RAY_ADDRESS to a cluster, raise PVTT_NUM_CPUS, or lower stages.*.parallel.num_workers (accelerator=cpu where there is no GPU)."
        )


def map_on_ray(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    name: str,
    settings: Settings,
    num_gpus: float = 0,
    max_retries: int = 3,
    on_result: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """ray_pool.map_on_actors, in a local Ray with an actor a core, on a cluster with as many as find room, `settings.max_workers` at most.

    Raises WorkerLost where Ray gave up; Ray is then stopped, so that the next try begins anew.
    """
    local = not settings.ray_address
    most = max(1, int(min(ray.cluster_resources().get("GPU", 0) / num_gpus if num_gpus else settings.num_cpus, settings.num_cpus)))
    try:
        return map_on_actors(
            function,
            items,
            name=name,
            most=most if local else settings.max_workers,
            num_gpus=num_gpus,
            keep=local and not num_gpus,
            max_retries=max_retries,
            on_result=on_result,
        )
    except WorkerLost:
        stop_ray()
        raise


@ray.remote(num_cpus=0)
class _Board:
    """The last thing each worker said; the driver reads it for progress."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}

    def say(self, key: str, value: Any) -> None:
        self.said[key] = value

    def read(self) -> dict[str, Any]:
        return dict(self.said)


class Reporter:
    """A worker's side of the board. Saying something never fails and never waits."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def say(self, key: str, value: Any) -> None:
        with contextlib.suppress(Exception):
            self._board.say.remote(key, value)


def _worker(config: dict[str, Any]) -> None:
    import ray.train

    module, _, name = config["function"].partition(":")
    termination.training.set()
    try:
        few_collections()
        function = getattr(importlib.import_module(module), name)
        usual_collections()
        function(config["payload"], Reporter(config["board"]))
    except Exception as error:
        if not can_pass(error):
            ray.get(config["board"].say.remote(HOPELESS, (kind_of(error), f"{type(error).__name__}: {error}")))
        raise
    finally:
        termination.training.clear()
    ray.train.report({"done": 1})


def _watched_torch_config(backend: str, timeout_s: int) -> Any:
    """Ray's own, whose workers note a SIGTERM instead of dying of it."""
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class Backend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(termination.watch)
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return Backend

    return Config(backend=backend, timeout_s=timeout_s)


def train_on_ray(
    function: str,
    payload: Any,
    *,
    name: str,
    settings: Settings,
    num_workers: int,
    use_gpu: bool,
    max_restarts: int,
    on_progress: Callable[[dict[str, Any]], None],
    poll_s: float = 1.0,
    collective_timeout_s: int = 300,
) -> None:
    """function(payload, reporter) on `num_workers` workers in one torch process group (NCCL or gloo). Returns when all are done.

    function: 'module:name', imported by the workers alone: the driver need not load what they load.

    A killed worker makes Ray restart all of them, at most `max_restarts` times; the function resumes from what it saved itself. Ray's
    own run name is new each time (Ray would report a finished run of the same name as a success and train nothing): whether a
    training is done is the store's to say. collective_timeout_s: what a rank waits for the others in one exchange.

    Raises TrainingFailed for an error that no restart can mend (infra/failures.py), at its first sight; WorkerLost for everything else that Ray
    could not mend.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # here: it loads torch, 7 s of CPU, and the board's process would too
    from ray.train.torch import TorchTrainer

    must_fit(num_workers, num_workers if use_gpu else 0, f"training {name}", settings)
    board = _Board.remote()  # type: ignore[attr-defined]
    threads = max(1, settings.num_cpus // num_workers)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"function": function, "payload": payload, "board": board},
        torch_config=_watched_torch_config("nccl" if use_gpu else "gloo", collective_timeout_s),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1 if use_gpu else threads}),
        run_config=RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:6]}", storage_path=str(_ray_folder(settings)), failure_config=FailureConfig(max_failures=max_restarts)
        ),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            with counted(gpus=num_workers if use_gpu else 0, workers=num_workers):
                trainer.fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, name=f"ray-train-{name}", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(poll_s)
        said: dict[str, Any] = {}
        with contextlib.suppress(ray.exceptions.RayError):
            said = ray.get(board.read.remote(), timeout=10)
        if HOPELESS in said:
            stop_ray()
            kind, text = said[HOPELESS]
            raise TrainingFailed(f"{name}: {text}", kind)
        on_progress(said)
    if failure:
        stop_ray()
        raise WorkerLost(f"{name}: {type(failure[0]).__name__}: {failure[0]}") from failure[0]


def _ray_folder(settings: Settings) -> Path:
    folder = settings.home / "ray"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
