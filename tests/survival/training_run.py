"""A training of two stages without Prefect: the driver, what it trains on, and the moments at which its processes can be met. A script.

    python training_run.py STORE     with PVTT_HOME set; STRIKES=FOLDER stops it once at each moment of MOMENTS named in STRIKE_AT, where a file
                                     FOLDER/<moment> appears that holds the pid of the process that stands there, for a minute
                                     or until FOLDER/'<moment> is over' appears

What runs is tasks/train_worker.py on Ray, as tasks/train_stage.py starts it, and that task's commit; retried as its policy says.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pvtt_model" / "training"))  # train_jobs.py: the clips

from infra.artifact_store import ArtifactStore
from infra.ray_launch import Reporter, start_ray, train_on_ray
from infra.ray_pool import WorkerLost
from infra.settings import settings
from infra.step_checkpoints import StepCheckpoints
from infra.watchdog import newly_hung, who_hangs
from pvtt_model.artifacts import Planned, StoredFile, plan_artifact
from pvtt_model.specs import RecipeSpec

STEPS, EVERY, WORKERS = 12, 2, 2
#: In the order in which they come; of the first stage, but for the last. Between two of which one is in the background lies a checkpoint,
#: which waits for it.
MOMENTS = ("step", "accumulation", "writing", "upload", "validation", "stage change")
AT = {"step": 1, "accumulation": 4, "writing": 6, "upload": 8, "validation": 10}  # the step (from 0), or of a checkpoint the steps done
PAUSE_S = 60.0
TRIES = 4  # POLICY's: once, and three more times


def recipe(steps: int = STEPS, every: int = EVERY, workers: int = WORKERS) -> RecipeSpec:
    from train_jobs import SETTINGS

    from pvtt_model.recipes import recipe_by_name

    told = {"num_workers": workers, "micro_batch": 1}
    train: dict[str, Any] = {"steps": steps, "checkpoint_every_steps": every, "max_worker_restarts": 8, "release": "best"}
    train |= {"hang_timeout_s": float(os.environ["HANG_TIMEOUT_S"])} if "HANG_TIMEOUT_S" in os.environ else {}
    overrides = SETTINGS | {f"stages.*.parallel.{k}": v for k, v in told.items()} | {f"stages.*.train.{k}": v for k, v in train.items()}
    base = recipe_by_name("nano", overrides)
    one = base.stages[0].model_copy(update={"name": "one"})
    two = one.model_copy(update={"name": "two", "init_from": "previous"})
    return base.model_copy(update={"stages": (one, two)})


def planned(index: int) -> Planned:
    return plan_artifact("checkpoints", {"stage": index})


def upload_clips(store: ArtifactStore) -> None:
    """Five clips of random numbers; written once."""
    import torch
    from safetensors.torch import save_file
    from train_jobs import TEXT, places

    if store.store.exists("data/empty.safetensors"):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places(folder / "clips")
        save_file({"text_LD": torch.zeros(1, TEXT)}, folder / "empty.safetensors")
        for kind in ("latents", "conditions"):
            store.store.put_file(f"data/{kind}.parquet", folder / "clips" / f"{kind}.parquet")
        store.store.put_file("data/empty.safetensors", folder / "empty.safetensors")


def stored(store: ArtifactStore, name: str) -> StoredFile:
    from pvtt_model.artifacts import sha256_of_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        store.store.get_file(f"data/{name}", path)
        return StoredFile(name=name, key=f"data/{name}", bytes=path.stat().st_size, sha256=sha256_of_file(path))


def payload_of(store: ArtifactStore, told: RecipeSpec, index: int) -> Any:
    from train_jobs import CLIPS

    from tasks.train_payload import PlaceRef, TrainPayload
    from tasks.train_stage import trained_files

    upload_clips(store)
    latents, conditions = (stored(store, f"{kind}.parquet") for kind in ("latents", "conditions"))
    places = tuple(PlaceRef(f"clip{i}", latents, conditions, i, (32, 32)) for i in range(CLIPS))
    before = store.find(planned(index - 1)) if index else None
    init = trained_files(before) if before else None
    return TrainPayload(store.store.uri, planned(index), told, index, places, stored(store, "empty.safetensors"), init, False)


def train(uri: str) -> None:
    """Both stages, each found or made."""
    where, told = settings(uri), recipe()
    store = ArtifactStore.open(uri, where.cache)
    for index, stage in enumerate(told.stages):
        for left in reversed(range(TRIES)):
            try:
                _stage(store, told, index, where)
                break
            except WorkerLost as error:
                print(f"stage {stage.name}: {error}", flush=True)
                if not left:
                    raise
        if index == 0 and os.environ.get("STRIKE_AT") != "worker":
            pause("stage change")


def _stage(store: ArtifactStore, told: RecipeSpec, index: int, where: Any) -> None:
    from tasks.train_stage import _commit

    if store.find(planned(index)) is not None:
        return
    payload = payload_of(store, told, index)
    steps, stage, said = StepCheckpoints(store.store, planned(index)), told.stages[index], dict[str, Any]()

    def heard(board: dict[str, Any]) -> None:
        if newly_hung(board, said):
            print(f"stage {stage.name}: {who_hangs(board)}", flush=True)
        said.update(board)

    if steps.steps()[-1:] != [stage.train.steps]:
        start_ray(where)
        train_on_ray(
            "training_run:train_worker", payload, name=f"stage{index}", settings=where, num_workers=stage.parallel.num_workers, use_gpu=False,
            max_restarts=stage.train.max_worker_restarts, on_progress=heard, poll_s=0.2,
        )  # fmt: skip
    print(f"stage {stage.name} resumed at {said.get('resumed_at')}", flush=True)
    _commit(store, planned(index), told, index, steps, [p.clip_key for p in payload.places], said, payload.init or {})


# --- in the workers


def train_worker(payload: Any, reporter: Reporter) -> None:
    """tasks.train_worker, which validates, and stops at the moments."""
    import torch.distributed as dist

    import tasks.train_hooks
    import tasks.train_worker
    from pvtt_model.training import background_saves

    first, writes, puts = dist.get_rank() == 0, background_saves.save_file, []

    class Struck(tasks.train_hooks.StoreHooks):
        def at(self, step: int, doing: str) -> None:
            super().at(step, doing)
            for moment, part in (("step", "step"), ("accumulation", "micro-batch 2 of 2")):
                if first and not payload.stage_index and step == AT[moment] and doing == part:
                    pause(moment)

        def on_step(self, record: dict[str, float]) -> None:
            record["validation"] = abs(record["step"] - 6.5) + record["loss"] * 1e-3  # best after 7 or 8 steps, not by the last
            super().at(int(record["step"]), "validation")
            if first and not payload.stage_index and record["step"] == AT["validation"]:
                pause("validation")
            super().on_step(record)

        def save(self, step: int, folder: Path, pinned: bool) -> None:
            if first and not payload.stage_index and step == AT["upload"]:
                real = self.checkpoints.store.put_file

                def put(key: str, path: str | Path) -> None:
                    real(key, path)
                    puts.append(key)
                    if len(puts) == 1:
                        pause("upload")

                self.checkpoints.store.put_file = put  # type: ignore[method-assign]
            super().save(step, folder, pinned)

    def write(tensors: Any, path: Path) -> None:
        writes(tensors, path)
        if first and not payload.stage_index and path.parent.name.startswith(f"step{AT['writing']:06d}"):
            pause("writing")

    background_saves.save_file = write  # type: ignore[assignment]
    tasks.train_worker.StoreHooks = Struck  # type: ignore[misc]
    if payload.stage_index and first and os.environ.get("STRIKE_AT") == "worker":
        pause("stage change")
    tasks.train_worker.train_worker(payload, reporter)


def pause(moment: str) -> None:
    """Once in the whole run, stand here to be met."""
    folder = os.environ.get("STRIKES")
    if not folder:
        return
    mine = Path(folder) / f".{os.getpid()}-{moment}"
    mine.write_text(str(os.getpid()))
    try:
        os.link(mine, Path(folder) / moment)
    except FileExistsError:
        return
    ends_s = time.monotonic() + PAUSE_S
    while time.monotonic() < ends_s and not (Path(folder) / f"{moment} is over").exists():
        time.sleep(0.05)


if __name__ == "__main__":
    train(sys.argv[1])
