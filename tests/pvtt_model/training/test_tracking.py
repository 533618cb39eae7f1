"""Event files read back by TensorBoard's own reader: every step once, whatever was killed in between."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pvtt_model.training.tracking import EventFile, scalars_of, wandb_asked, whole_run


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def steps(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def png(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "PNG")
    return out.getvalue()


def test_a_record_by_tag():
    record = {"step": 3, "loss": 1.5, "flow_loss": 1.0, "words_loss": 0.5, "lr": 0.25, "grad_norm": -1.0, "level2_sum": 6.0, "level2_count": 4.0}
    record |= {"validation": 0.75, "validation_level9": 0.5, "data_wait_s": 0.125, "mfu": 0.4}
    assert scalars_of(record) == {
        "loss/total": 1.5, "loss/flow": 1.0, "loss/words": 0.5, "train/lr": 0.25, "loss_by_noise/0.2-0.3": 1.5, "validation/loss": 0.75,
        "validation_by_noise/0.9-1.0": 0.5, "speed/data_wait_s": 0.125, "speed/mfu": 0.4,
    }, "a norm that is not finite (-1) is no point of the curve"  # fmt: skip


def test_no_step_twice_after_a_resume(tmp_path):
    """Killed after step 6 was written, resumed from the checkpoint of 4: by the same process, then by a new one."""
    first = EventFile(tmp_path)
    for step in range(7):
        first.scalars(step, {"loss/total": 1.0 + step})
    first.restart(4)
    for step in range(4, 6):
        first.scalars(step, {"loss/total": 10.0 + step})
    first.close()
    second = EventFile(tmp_path, first_step=5)
    second.scalars(5, {"loss/total": 105.0})
    second.close()
    assert steps(read(tmp_path), "loss/total") == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0), (4, 14.0), (5, 105.0)]


def test_a_whole_run_stands_in_one_file(tmp_path):
    live = EventFile(tmp_path)
    live.scalars(0, {"loss/total": 9.0})
    live.close()
    records = [{"step": i, "loss": float(i), "at_s": 1e9 + i} for i in range(5)]
    path = whole_run(tmp_path, records, [(4, "samples/0", png((255, 0, 0)))])
    assert list(tmp_path.iterdir()) == [path]
    found = read(tmp_path)
    assert steps(found, "loss/total") == [(i, float(i)) for i in range(5)]
    assert [event.wall_time for event in found.Scalars("loss/total")] == [1e9 + i for i in range(5)]
    (shown,) = found.Images("samples/0")
    assert (shown.step, shown.width, shown.height, shown.encoded_image_string) == (4, 8, 6, png((255, 0, 0)))


@pytest.mark.parametrize("environment", [{}, {"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, {"WANDB_API_KEY": ""}])
def test_wandb_is_left_alone_unless_asked(environment):
    assert wandb_asked(environment) is None


def test_wandb_asked_for_and_not_installed_says_the_cure_and_no_key(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = wandb_asked({"WANDB_API_KEY": "secret-key"})
    assert said is not None and "pip install 'pvtt[wandb]'" in said and "secret-key" not in said
