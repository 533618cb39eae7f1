"""What a person sees of a stage while it trains: TensorBoard, Weights & Biases where asked for, and the UI. The driver reads the workers' board.

Never needed for the training to be right: what cannot be shown is said once in the log, and the training goes on.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from infra.artifact_store import ArtifactStore
from infra.settings import Settings
from pvtt_model.artifacts import Manifest, Planned, StoredFile
from pvtt_model.specs import RecipeSpec, StageSpec
from pvtt_model.training.tracking import EventFile, Tracker, WandbRun, scalars_of, wandb_asked, whole_run
from tasks.project import project_of_run
from tasks.ui import Progress, picture, show_markdown

EVENTS = "events.out.tfevents.whole"  # the run in one file, attached to the checkpoint
SAMPLES = "samples/"  # of the version's folder; NNNNNN-I.png, the step and the number of the edit
CURVE_EVERY_S = 10.0


def board_folder(where: Settings, version: str, recipe: RecipeSpec, stage: StageSpec) -> Path:
    """Of a stage's event files. TensorBoard shows the run as <version>/<recipe>-<stage>, behind the run's project where it has one."""
    return where.home / "tensorboard" / (project_of_run() or "") / version / f"{recipe.name}-{stage.name}"


class Seen:
    """The records of a training as they come, shown."""

    def __init__(self, store: ArtifactStore, planned: Planned, recipe: RecipeSpec, stage: StageSpec, where: Settings, records: list[Any]) -> None:
        """records: those of the steps before, where it goes on."""
        self.store, self.recipe, self.stage, self.log = store, recipe, stage, get_run_logger()
        self.records: list[dict[str, float]] = list(records)
        self.progress = Progress(f"progress-train-{stage.name}", f"training {stage.name}")
        self.start: Any = None  # names the workers' start that the records come from
        self.validated = _last_validated(self.records)
        self.sampled, self.curve_s = -1, -CURVE_EVERY_S
        self.trackers: list[Tracker] = []
        self._guarded("TensorBoard", lambda: self._tensorboard(board_folder(where, planned.version, recipe, stage)))
        self._guarded("Weights & Biases", lambda: self._wandb(planned, where))

    def _tensorboard(self, folder: Path) -> None:
        before = any(folder.glob("*tfevents*"))
        file = EventFile(folder, len(self.records) if before else 0)
        self.trackers.append(file)
        for record in [] if before else self.records:
            file.scalars(int(record["step"]), scalars_of(record), record.get("at_s"))
        self.log.info("TensorBoard: tensorboard --logdir %s", folder.parent.parent)

    def _wandb(self, planned: Planned, where: Settings) -> None:
        asked = wandb_asked(os.environ)
        if asked == "yes":
            config = {"recipe": self.recipe.name, "stage": self.stage.model_dump(mode="json")}
            run = WandbRun(planned.version, f"{self.recipe.name}-{self.stage.name}", config, where.home, project_of_run())
            self.trackers.append(run)
        elif asked:
            self.log.warning("%s", asked)

    def _guarded(self, what: str, show: Any) -> None:
        try:
            show()
        except Exception as error:
            self.log.warning("%s of stage '%s' cannot be shown: %s: %s", what, self.stage.name, type(error).__name__, error)

    def look(self, board: dict[str, Any]) -> None:
        """What the workers said last."""
        tail = board.get("tail")
        if tail:
            self._guarded("the record", lambda: self._take(tail))
        samples = board.get("samples")
        if samples and samples["step"] != self.sampled:
            self.sampled = samples["step"]
            self._guarded("samples", lambda: self._samples(samples["step"], samples["files"]))
        if self.records:
            last = self.records[-1]
            said = [f"loss {last['loss']:.4f}", f"{last['samples_per_s']:.1f} samples/s"]
            said += [f"validation {self._validation():.4f}"] if self.validated >= 0 else []
            note = ", ".join([*said, f"checkpoint at {board.get('checkpoint', 0)}"])
            self.progress.at(last["step"] + 1, self.stage.train.steps, note)

    def _validation(self) -> float:
        return next(r["validation"] for r in reversed(self.records) if "validation" in r)

    def _take(self, tail: dict[str, Any]) -> None:
        first = int(tail["first_step"])
        if tail["start"] != self.start:
            self.start = tail["start"]
            if first < len(self.records):  # the workers were started again: these steps come again
                self.records = self.records[:first]
                self.validated = _last_validated(self.records)
                for tracker in self.trackers:
                    tracker.restart(first)
        for record in tail["records"]:
            if not self.records or record["step"] > self.records[-1]["step"]:
                self.records.append(record)
                self._say(record, {t: v for t, v in scalars_of(record).items() if not t.startswith("validation")})
            if "validation" in record and record["step"] > self.validated:
                self.validated = record["step"]
                self.records[-1 - int(self.records[-1]["step"] - record["step"])] = record
                self._say(record, {t: v for t, v in scalars_of(record).items() if t.startswith("validation")})
                self._curve(record)

    def _say(self, record: dict[str, float], values: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.scalars(int(record["step"]), values, record.get("at_s"))

    def _curve(self, record: dict[str, float]) -> None:
        from pvtt_model.evaluation.loss_curve import loss_curve

        self.log.info("stage %s, step %d: validation %.4f", self.stage.name, record["step"], record["validation"])
        if time.monotonic() - self.curve_s < CURVE_EVERY_S:
            return
        self.curve_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            path = loss_curve(self.records, Path(folder) / "curve.png", title=f"{self.recipe.name}, stage {self.stage.name}")
            shown = picture(path, "loss and validation", 900)
        text = f"## Stage `{self.stage.name}` after step {record['step']:g} of {self.stage.train.steps}\n\n{shown}"
        show_markdown(f"training-{self.stage.name}", text, f"validation {record['validation']:.4f}")

    def _samples(self, step: int, files: Sequence[StoredFile]) -> None:
        shown = [self.store.local_path(file) for file in files]
        for i, path in enumerate(shown):
            for tracker in self.trackers:
                tracker.picture(step - 1, f"samples/{i}", path.read_bytes())
        pictures = "\n\n".join(picture(path, f"edit {i}", 900) for i, path in enumerate(shown))
        text = f"## Edits of stage `{self.stage.name}` after {step} steps\n\ntemplate, mask, edit, reference\n\n{pictures}"
        show_markdown(f"samples-{self.stage.name}", text, f"{len(shown)} edits after step {step}")

    def close(self) -> None:
        for tracker in self.trackers:
            self._guarded("the end", tracker.close)


def _last_validated(records: Sequence[Mapping[str, float]]) -> int:
    """The last step with a validation; -1 where there is none."""
    return int(max((r["step"] for r in records if "validation" in r), default=-1))


def seen_files(store: ArtifactStore, planned: Planned, records: list[Any], folder: Path) -> list[StoredFile]:
    """The whole run's event file and the samples' pictures, attached: made of the stored records, so each step is in it once."""
    files, pictures = [], []
    prefix = f"{planned.name}/{SAMPLES}"
    for info in sorted(store.store.list(prefix), key=lambda info: info.key):
        name = info.key.removeprefix(prefix)
        store.store.get_file(info.key, folder / name)
        step, number = name.removesuffix(".png").split("-")
        pictures.append((int(step) - 1, f"samples/{number}", (folder / name).read_bytes()))
        files.append(store.attach(planned, SAMPLES + name, folder / name))
    return [*files, store.attach(planned, EVENTS, whole_run(folder / "run", records, pictures))]


def put_events(store: ArtifactStore, manifest: Manifest, folder: Path) -> None:
    """The finished run in TensorBoard's folder, in the place of what was written while it trained; a checkpoint from before has none."""
    if EVENTS not in [file.name for file in manifest.files]:
        return
    name = f"events.out.tfevents.{manifest.version}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        (folder / f".{name}").write_bytes(store.local_path(manifest.file(EVENTS)).read_bytes())
        (folder / f".{name}").rename(folder / name)
    for path in folder.glob("*tfevents*"):
        if path.name not in (name, f".{name}"):
            path.unlink(missing_ok=True)
