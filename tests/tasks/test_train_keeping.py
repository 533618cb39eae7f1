"""What a training's hooks keep in the store, which state is released, and which pairs are the selected ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from infra.step_checkpoints import StepCheckpoints
from infra.store import LocalStore
from pvtt_model.artifacts import plan_artifact
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import DataSpec, TrainSpec
from pvtt_model.training.records import STATE, TRAINED
from tasks.train_hooks import StoreHooks
from tasks.train_pairs import select_pairs, selected_keys
from tasks.train_stage import _released, as_released


class Said:
    """The board's side of a reporter."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def say(self, key: str, value: Any) -> None:
        self.said.append((key, value))


@pytest.fixture
def checkpoints(tmp_path) -> StepCheckpoints:
    return StepCheckpoints(LocalStore(tmp_path / "store"), plan_artifact("checkpoints", {"a": 1}))


def save(hooks: StoreHooks, tmp_path: Path, validations: list[float], pinned: bool = False) -> None:
    step = len(validations)
    folder = tmp_path / f"made{step}"
    folder.mkdir()
    save_file({"a": torch.tensor([float(step)])}, folder / TRAINED)
    records = [{"step": i, "loss": 1.0 / (i + 1), "validation": v} for i, v in enumerate(validations)]
    (folder / STATE).write_text(json.dumps({"step": step, "records": records}))
    hooks.save(step, folder, pinned)
    assert not folder.exists(), "the scratch is left as it was"


LOSSES = [0.9, 0.5, 0.7, 0.8, 0.6, 0.95]  # the best by validation after 2 steps; by training loss the last


def test_the_newest_the_best_and_the_epochs_stay_and_the_best_is_released(checkpoints, tmp_path, caplog):
    hooks = StoreHooks(checkpoints, Said(), TrainSpec(steps=6, keep_checkpoints=2, release="best"))
    for done in range(1, 7):
        save(hooks, tmp_path, LOSSES[:done], pinned=done == 3)
    assert checkpoints.steps() == [2, 3, 5, 6]
    assert hooks.reporter.said[-1] == ("checkpoint", 6)
    stage = recipe_by_name("nano", {"stages.*.train.release": "best"}).stages[0]
    records = [{"step": i, "loss": 1.0 / (i + 1), "validation": v} for i, v in enumerate(LOSSES)]
    last = (6, tmp_path)
    step, folder = _released(checkpoints, tmp_path / "got", last, records, stage)
    assert step == 2 and (folder / TRAINED).exists()
    checkpoints.store.put_bytes(f"{checkpoints.prefix}000002/{TRAINED}", b"cut")
    with caplog.at_level(logging.WARNING):
        assert _released(checkpoints, tmp_path / "again", last, records, stage)[0] == 5, "the next best of those kept"
    assert "step checkpoint 2 is refused" in caplog.text
    with pytest.raises(RuntimeError, match="none of those validated is kept whole"):
        _released(checkpoints, tmp_path / "none", last, [{"step": 0, "loss": 0.1}], stage)
    assert _released(checkpoints, tmp_path, last, records, recipe_by_name("nano").stages[0]) == last


def test_an_upload_that_fails_commits_nothing_and_says_which_rank(checkpoints, tmp_path, monkeypatch):
    hooks = StoreHooks(checkpoints, Said(), TrainSpec(steps=6))
    monkeypatch.setattr(checkpoints.store, "put_file", lambda key, path: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(RuntimeError, match=r"after step 1 could not be sent \(rank 0: OSError: no space left\)"):
        save(hooks, tmp_path, LOSSES[:1])
    assert checkpoints.steps() == []


def test_selected_pairs_are_the_best():
    facts = {key: {"quality": quality} for key, quality in (("a", 0.1), ("b", 0.9), ("c", 0.5), ("d", 0.9))}
    assert selected_keys(facts, DataSpec(selected_pairs=3, selected_share=0.5)) == {"b", "d", "c"}
    assert selected_keys(facts, DataSpec()) == set()
    with pytest.raises(ValueError, match="belong together"):
        DataSpec(selected_pairs=3)


def test_new_pairs_come_first_and_one_network_goes_on():
    facts = {key: {"held_out": False, "quality": quality} for key, quality in (("a", 0.9), ("b", 0.8), ("c", 0.1), ("d", 0.2))}
    places = {key: (SimpleNamespace(clip_key=key), fact) for key, fact in facts.items()}
    data = DataSpec(max_pairs=3, select="best")
    assert [p.clip_key for p in select_pairs(places, data, "refine")] == ["a", "b", "d"]
    assert [p.clip_key for p in select_pairs(places, data, "refine", {"c", "d"})] == ["d", "c", "a"]
    stage = recipe_by_name("nano").retraining().stages[-1]
    released = SimpleNamespace(name="checkpoints/x", spec={part: getattr(stage, part).identity() for part in ("backbone", "reference", "lora")})
    released = SimpleNamespace(name=released.name, spec=json.loads(json.dumps(released.spec)))  # as a manifest holds it
    as_released(released, stage)
    wider = stage.model_copy(update={"lora": stage.lora.model_copy(update={"rank": 32})})
    with pytest.raises(ValueError, match="would go on from checkpoints/x, and has another lora than it.*retrain.start_from=base"):
        as_released(released, wider)
