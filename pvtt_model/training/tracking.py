"""A training's records as TensorBoard event files, and on Weights & Biases where that is asked for. Light: no torch.

Event files are written by TensorBoard's own writer. A run that goes on from step k begins a new file with a START event of step k, at which
TensorBoard forgets what it read of step k and later from the files before: no step is shown twice.
"""

from __future__ import annotations

import importlib.util
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

BINS = 10
#: Of a record's fields the tag they are shown under, in TensorBoard's groups.
TAGS = {
    "loss": "loss/total", "flow_loss": "loss/flow", "words_loss": "loss/words", "identity_loss": "loss/identity",
    "reference_recon_loss": "loss/reference_reconstruction", "validation": "validation/loss", "lr": "train/lr", "grad_norm": "train/grad_norm",
    "samples_per_s": "speed/samples_per_s", "mfu": "speed/mfu", "data_wait_s": "speed/data_wait_s", "memory_gib": "speed/memory_peak_gib",
}  # fmt: skip


def scalars_of(record: Mapping[str, float]) -> dict[str, float]:
    """The values of a step's record by tag; of the noise levels the mean of each tenth, named by its lower end."""
    found = {tag: float(record[field]) for field, tag in TAGS.items() if field in record}
    if found.get("train/grad_norm") == -1.0:  # the loop's word for a norm that is not finite
        del found["train/grad_norm"]
    for i in range(BINS):
        level = f"{i / BINS:.1f}-{(i + 1) / BINS:.1f}"
        if record.get(f"level{i}_count"):
            found[f"loss_by_noise/{level}"] = record[f"level{i}_sum"] / record[f"level{i}_count"]
        if f"validation_level{i}" in record:
            found[f"validation_by_noise/{level}"] = float(record[f"validation_level{i}"])
    return found


class Tracker(Protocol):
    def scalars(self, step: int, values: Mapping[str, float], at_s: float | None = None) -> None:
        """Values of a step by tag. at_s: when, in seconds since the epoch; now where it is not said."""

    def picture(self, step: int, tag: str, png: bytes) -> None: ...

    def restart(self, step: int) -> None:
        """Steps from `step` on come again."""

    def close(self) -> None: ...


class EventFile:
    """One run's event files in `folder`; steps begin at `first_step`, and what older files there hold of later ones is void."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self.folder = folder
        self._open(first_step)

    def _open(self, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(self.folder), flush_secs=5)
        self.writer.add_event(Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float], at_s: float | None = None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(step, Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]), at_s)

    def picture(self, step: int, tag: str, png: bytes) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = Image.open(io.BytesIO(png)).size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._add(step, Summary(value=[Summary.Value(tag=tag, image=image)]))
        self.writer.flush()

    def _add(self, step: int, summary: Any, at_s: float | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(Event(wall_time=at_s or time.time(), step=step, summary=summary))

    def restart(self, step: int) -> None:
        self.close()
        self._open(step)

    def close(self) -> None:
        self.writer.close()


def whole_run(folder: Path, records: Iterable[Mapping[str, float]], pictures: Sequence[tuple[int, str, bytes]] = ()) -> Path:
    """One file that holds a finished run, in the place of what was in the folder. pictures: step, tag, PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    older = list(folder.glob("*tfevents*"))
    file = EventFile(folder)
    for record in records:
        file.scalars(int(record["step"]), scalars_of(record), record.get("at_s"))
    for picture in pictures:
        file.picture(*picture)
    file.close()
    for path in older:
        path.unlink(missing_ok=True)
    (written,) = folder.glob("*tfevents*")
    return written


class WandbRun:
    """A run on Weights & Biases, or offline under `folder`. Its id is the artifact's version, so a resumed training goes on in the same run, which
    drops the steps that it has already."""

    def __init__(self, version: str, name: str, config: dict[str, Any], folder: Path, of: str | None = None) -> None:
        """of: the project, of several; it is W&B's project `pvtt-<of>`, where WANDB_PROJECT names no other."""
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        project = os.environ.get("WANDB_PROJECT") or (f"pvtt-{of}" if of else "pvtt")
        quiet = wandb.Settings(silent=True, console="off", save_code=False, disable_git=True)
        self.run = wandb.init(id=version, name=name, project=project, config=config, dir=str(folder), resume="allow", settings=quiet)
        self.next_step, self.last = int(self.run.step), -1

    def scalars(self, step: int, values: Mapping[str, float], at_s: float | None = None) -> None:
        self._log(step, dict(values))

    def picture(self, step: int, tag: str, png: bytes) -> None:
        import wandb

        self._log(step, {tag: wandb.Image(Image.open(io.BytesIO(png)))})

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step >= self.next_step:
            self.run.log(values, step=step)
            self.last = max(self.last, step)

    def restart(self, step: int) -> None:
        self.next_step = max(self.next_step, self.last + 1)

    def close(self) -> None:
        self.run.finish()


def wandb_asked(environment: Mapping[str, str]) -> str | None:
    """'yes', or in words why not; None where nobody asked. WANDB_MODE (online, offline, disabled) or WANDB_API_KEY asks."""
    mode = environment.get("WANDB_MODE", "")
    if mode == "disabled" or not (mode or environment.get("WANDB_API_KEY")):
        return None
    if importlib.util.find_spec("wandb") is None:
        return "Weights & Biases is asked for and not installed: pip install 'pvtt[wandb]'. TensorBoard's files are written all the same."
    return "yes"
