"""Re-training end to end on real Prefect, Ray and DeepSpeed: 2 new clips of 20: kept back, promoted, not yet, nothing new. One stage of few steps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.artifact_store import ArtifactStore
from infra.release_registry import ReleaseRegistry
from pvtt_model.nano.world import write_world
from pvtt_model.specs import NanoWorldSpec
from tests.flows.test_curriculum import run_flows, small

pytestmark = pytest.mark.slow

WORLD = NanoWorldSpec(num_clips=13, num_validation=1, num_eval=8, look_alikes=2)
KINDS = ("clips", "masks", "latents", "conditions")
BAD = {"retrain.lr": 0.3, "retrain.steps": 6, "retrain.tolerance": 0.01}  # a rate that ruins the weights
GOOD = {"retrain.tolerance": 0.01}  # four steps lose 0.002 dB, and surely so


def asked(**more: Any) -> dict[str, Any]:
    """One stage, judged on eight clips by the metrics of a gate that all pass."""
    overrides = small()
    (stage,) = overrides["stages"]
    stage["edit"]["max_clips"] = 8
    stage["gate"]["thresholds"] = [
        {"metric": "bg_psnr_composited_db", "op": ">", "value": 10.0},
        {"metric": "in_product_psnr_db", "op": ">", "value": 0.0},
    ]
    return {k: v for k, v in overrides.items() if not k.startswith("world.")} | {"retrain.steps": 4} | more


def derived_rows(store: ArtifactStore) -> dict[str, dict[str, int]]:
    """By kind the units of work there are, and how many rows each made."""
    found: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        records = [json.loads(store.store.get_bytes(info.key)) for info in store.store.list(f"derived/{kind}/")]
        found[kind] = {record["key"]: record["files"][0]["rows"] or 0 for record in records}  # the empty prompt's embedding has no rows
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All runs, and what the store held between them."""
    home = tmp_path_factory.mktemp("retrain")
    write_world(WORLD, home / "clips")
    lines = (home / "clips" / "manifest.jsonl").read_text().splitlines()
    training = [i for i, line in enumerate(lines) if json.loads(line)["metadata"]["split"] == "train"]
    new = training[-2:]
    old = home / "clips" / "old.jsonl"
    old.write_text("".join(f"{line}\n" for i, line in enumerate(lines) if i not in new))
    everything = home / "clips" / "manifest.jsonl"
    found: dict[str, Any] = {"home": home}
    found["first"] = run_flows(home, ("pvtt", {"overrides": asked(), "clips": str(old)}))[0]
    store = found["store"] = ArtifactStore.open(home / "store")
    found["before"] = derived_rows(store)
    both = {"clips": str(everything)}
    found["not_yet"], found["nothing"] = run_flows(  # the first run of a process waits for its server
        home,
        ("retrain", both | {"overrides": asked(**{"retrain.min_new_clips": 3, "retrain.max_age_days": 1.0})}),
        ("retrain", {"overrides": asked(), "clips": str(old)}),
    )
    found["untouched"] = derived_rows(store)
    found["bad"], found["bad_again"] = run_flows(home, *[("retrain", both | {"overrides": asked(**BAD)})] * 2)
    found["after"], found["checkpoints"] = derived_rows(store), len(store.names("checkpoints"))
    found["good"], found["then"] = run_flows(home, *[("retrain", both | {"overrides": asked(**GOOD)})] * 2)
    return found


def test_nothing_new_and_not_yet_end_soon(ran: dict[str, Any]) -> None:
    assert ran["first"]["state"] == "COMPLETED", ran["first"]["message"]
    assert (ran["nothing"]["state"], ran["nothing"]["name"]) == ("COMPLETED", "NothingNew") and ran["nothing"]["seconds"] < 20, ran["nothing"]
    assert (ran["not_yet"]["state"], ran["not_yet"]["name"]) == ("COMPLETED", "NotYet"), ran["not_yet"]
    assert "2 new clips, 3 are enough" in ran["not_yet"]["message"] and "0.0 days old, 1 is enough" in ran["not_yet"]["message"]
    assert ran["untouched"] == ran["before"], "and nothing is made"


def test_only_what_is_new_is_curated(ran: dict[str, Any]) -> None:
    assert {kind: sum(rows.values()) for kind, rows in ran["before"].items()} == dict.fromkeys(KINDS, 20)
    made = {kind: sum(n for key, n in rows.items() if key not in ran["before"][kind]) for kind, rows in ran["after"].items()}
    assert made == dict.fromkeys(KINDS, 2)


def test_a_worse_one_is_kept_back_with_its_reason(ran: dict[str, Any]) -> None:
    assert (ran["bad"]["state"], ran["bad"]["name"]) == ("COMPLETED", "KeptOld"), ran["bad"]
    assert "in_product_psnr_db is worse" in ran["bad"]["message"] and "over 8 edits" in ran["bad"]["message"]
    assert ran["bad_again"]["name"] == "KeptOld", "and what was found worse is found again"
    assert ran["checkpoints"] == 2, "not trained again"
    standing = ReleaseRegistry(ran["store"]).standing("nano")
    kept = [move for move in standing.moves if move.to == "candidate"]
    assert len(kept) == 1 and standing.of(kept[0].release) == "kept back" and "in_product_psnr_db is worse" in kept[0].why
    assert [name.split("/")[0] for name in kept[0].evidence] == ["reports", "reports"]


def test_one_that_is_not_worse_is_promoted(ran: dict[str, Any]) -> None:
    store = ran["store"]
    assert (ran["good"]["state"], ran["good"]["name"]) == ("COMPLETED", "Promoted"), ran["good"]
    standing = ReleaseRegistry(store).standing("nano")
    release = store.manifest(standing.production)
    assert release.name in ran["good"]["message"] and standing.into_production.who.startswith("run ")
    first, checkpoint = store.manifests("releases")[0], store.manifest(release.inputs[0])
    assert checkpoint.spec["init_from"] == "release" and first.inputs[0] in checkpoint.inputs, "trained on from the last release's checkpoint"
    assert checkpoint.summary["carried_over"]["fresh"] == 0 and checkpoint.summary["carried_over"]["loaded"] > 100
    assert checkpoint.spec["data"]["replay_share"] == 0.8
    assert release.summary["clips"] != first.summary["clips"]
    assert ran["then"]["name"] == "NothingNew", "the clips are of the release in production now"


def test_both_are_judged_on_the_same_clips_which_stay_held_out(ran: dict[str, Any]) -> None:
    store = ran["store"]
    standing = ReleaseRegistry(store).standing("nano")
    (new, old), first = standing.into_production.evidence, store.manifests("releases")[0]
    edits = [store.manifest(store.manifest(name).inputs[0]) for name in (new, old)]
    assert edits[0].inputs[1:] == edits[1].inputs[1:] and first.summary["clips"] in edits[0].inputs, "the same artifacts but for the checkpoint"
    assert old in first.inputs, "the last release's own report, found"

    def table(manifest: Any, name: str = "table.json") -> Any:
        return json.loads(store.local_path(manifest.file(name)).read_text())

    pairs = [[(row["clip_key"], row["reference_key"]) for row in table(one)] for one in edits]
    assert pairs[0] == pairs[1] and len(pairs[0]) == 8
    trained_on = set(table(store.manifest(store.manifest(standing.production).inputs[0]), "trained_on.json"))
    facts = table(store.manifest(store.manifest(standing.production).summary["clips"]))
    was = {f["product_id"]: f["held_out"] for f in table(store.manifest(first.summary["clips"]))}
    assert {f["product_id"]: f["held_out"] for f in facts if f["product_id"] in was} == was
    assert not trained_on & {key for pair in pairs[0] for key in pair} and len(trained_on) == 13
