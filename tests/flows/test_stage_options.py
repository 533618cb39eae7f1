"""The whole flow with a stage that sees its best pairs more often and releases the moving average of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from infra.artifact_store import ArtifactStore
from pvtt_model.training.records import EMA, TRAINED
from pvtt_model.training.trained_tensors import split_trainable
from tests.flows.test_curriculum import run_flows, small

pytestmark = pytest.mark.slow


def test_the_average_is_released_and_the_best_are_seen_more(tmp_path: Path) -> None:
    overrides = small()
    (stage,) = overrides["stages"]
    stage["train"] |= {"ema_decay": 0.5, "release_ema": True, "steps": 6}
    stage["data"] |= {"select": "best", "selected_pairs": 2, "selected_share": 0.75}
    (run,) = run_flows(tmp_path, ("pvtt", {"overrides": overrides}))
    assert run["state"] == "COMPLETED", run["message"]
    store = ArtifactStore.open(tmp_path / "store")
    (made,) = store.manifests("checkpoints")
    assert made.summary["released_weights"] == "their moving average, decay 0.5"
    assert made.summary["selected"] == "2 pairs, 75% of what is seen"
    last = store.store.root / "checkpoints" / made.version / "steps" / "000006"  # type: ignore[attr-defined]
    average, weights = (split_trainable(load_file(last / name)).files() for name in (EMA, TRAINED))
    for name in average:
        released = load_file(store.local_path(made.file(name)))
        assert released.keys() == average[name].keys()
        assert all(released[key].equal(tensor) for key, tensor in average[name].items())
        assert any(not released[key].equal(tensor) for key, tensor in weights[name].items())
    (release,) = store.manifests("releases")
    assert made.name in release.inputs
