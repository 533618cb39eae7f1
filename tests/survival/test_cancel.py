"""A run that is cancelled: its Ray, and with it every GPU, is free within 30 s; run again it goes on from its last step."""

from __future__ import annotations

import time

import pytest
from house import House, wait_for
from small_run import MOMENTS, RUN_TIMEOUT_S, Watched, parameters

pytestmark = pytest.mark.slow
FREE_WITHIN_S = 30.0


def test_a_cancelled_training_frees_its_machine_and_goes_on_when_run_again(house: House) -> None:
    store = Watched(str(house.home / "stores" / "cancelled"))
    (training,) = [moment for moment in MOMENTS if moment.name == "training"]
    run = house.start(parameters(store.uri))
    wait_for(lambda: training.reached(store), 600, "training", house.tell, poll_s=0.2)
    house.services._module(house.api, "prefect", "flow-run", "cancel", run)
    begun = time.monotonic()
    freed_s = wait_for(lambda: not house.ray_processes(), 120, "Ray to be gone", house.tell, poll_s=0.2)
    print(f"\nfree {freed_s:.1f} s after `prefect flow-run cancel` returned")
    assert house.wait(run, 60)[0] == "CANCELLED"
    print(f"Cancelled after {time.monotonic() - begun:.1f} s")
    assert freed_s <= FREE_WITHIN_S
    step = store.last_step()
    again = house.start(parameters(store.uri))
    assert house.wait(again, RUN_TIMEOUT_S)[0] == "COMPLETED", house.tell()
    assert store.manifest("checkpoints").summary["resumed_at"] >= step >= 10
