"""Re-training where 10 clips have come to 1,000: what is curated is those 10. And a minute later, with nothing new."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.artifact_store import ArtifactStore
from pvtt_model.nano.world import write_world
from pvtt_model.specs import NanoWorldSpec
from tests.flows.test_curriculum import run_flows
from tests.flows.test_retrain import GOOD, KINDS, asked, derived_rows

pytestmark = pytest.mark.slow

WORLD = NanoWorldSpec(num_clips=1010, num_validation=1, num_eval=8, look_alikes=2)


def test_ten_new_of_a_thousand(tmp_path: Path) -> None:
    write_world(WORLD, tmp_path / "clips")
    lines = (tmp_path / "clips" / "manifest.jsonl").read_text().splitlines()
    old = tmp_path / "clips" / "old.jsonl"
    old.write_text("".join(f"{line}\n" for line in lines[10:]))
    settings = asked(**GOOD) | {"clips.clips_per_shard": 64}
    (first,) = run_flows(tmp_path, ("pvtt", {"overrides": settings, "clips": str(old)}))
    assert first["state"] == "COMPLETED", first["message"]
    store = ArtifactStore.open(tmp_path / "store")
    before = derived_rows(store)
    everything = {"clips": str(tmp_path / "clips" / "manifest.jsonl"), "overrides": settings}
    retrained, nothing, again = run_flows(tmp_path, *[("retrain", everything)] * 3)
    assert (retrained["state"], retrained["name"]) == ("COMPLETED", "Promoted"), retrained
    assert [run["name"] for run in (nothing, again)] == ["NothingNew"] * 2
    print(f"\n10 of 1,000: {retrained['seconds']:.1f} s; nothing new: {nothing['seconds']:.1f} and {again['seconds']:.1f} s")
    assert max(nothing["seconds"], again["seconds"]) < 20
    after = derived_rows(store)
    for kind in KINDS:
        assert before[kind].items() <= after[kind].items(), f"{kind}: nothing of before is made again"
        assert sum(after[kind].values()) - sum(before[kind].values()) == 10, kind
