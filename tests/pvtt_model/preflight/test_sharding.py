"""Settings that contradict each other."""

from __future__ import annotations

import pytest

from pvtt_model.preflight.sharding import network_checks, sharding_checks
from pvtt_model.recipes import recipe_by_name


def stage(recipe: str = "wan2.1-vace-1.3b", **changes):
    overrides = {f"stages.*.{path.replace('__', '.')}": value for path, value in changes.items()}
    return recipe_by_name(recipe, overrides).stages[0]


@pytest.mark.parametrize(
    ("changes", "status", "cure"),
    [
        ({}, "ok", ""),
        ({"parallel__offload_params": True, "parallel__zero_stage": 2}, "fail", "zero_stage=3"),
        ({"parallel__offload_params": True, "parallel__zero_stage": 3}, "ok", ""),
        ({"parallel__offload_optimizer": True, "parallel__zero_stage": 0}, "fail", "zero_stage=1"),
        ({"parallel__num_workers": 1}, "warn", "zero_stage=0"),
        ({"parallel__num_workers": 1, "parallel__offload_optimizer": True}, "skipped", ""),
        ({"parallel__accelerator": "cpu", "parallel__offload_optimizer": True}, "warn", "offload_optimizer=false"),
        ({"data__max_pairs": 31, "data__min_pairs": 1}, "warn", "grad_accum=1"),
        ({"data__max_pairs": 32, "data__min_pairs": 1}, "ok", ""),
        ({"data__max_pairs": 5, "data__min_pairs": 6}, "fail", "min_pairs=5"),
        ({"train__steps": 1000}, "warn", "warmup_steps=100"),
    ],
)
def test_traps(changes, status, cure):
    (found,) = sharding_checks(stage(**changes))
    assert found.status == status and cure in found.cure, found


def test_zero3_with_checkpointing_is_warned_of_where_the_versions_are_others():
    sharded = stage(parallel__zero_stage=3)
    assert [c.status for c in sharding_checks(sharded)] == ["ok"]
    assert [c.status for c in sharding_checks(sharded, versions_known=False)] == ["warn"]
    assert [c.status for c in sharding_checks(stage(), versions_known=False)] == ["ok"], "ZeRO-2"


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({}, "ok"),
        ({"NCCL_SOCKET_IFNAME": "et"}, "ok"),
        ({"NCCL_SOCKET_IFNAME": "=et"}, "fail"),
        ({"NCCL_SOCKET_IFNAME": "=ib0,eth0"}, "ok"),
        ({"NCCL_SOCKET_IFNAME": "^docker"}, "ok"),
        ({"GLOO_SOCKET_IFNAME": "eth"}, "fail"),
        ({"GLOO_SOCKET_IFNAME": "eth0"}, "ok"),
        ({"NCCL_P2P_DISABLE": "1"}, "warn"),
    ],
)
def test_interfaces_named_by_the_environment(environment, status):
    assert [c.status for c in network_checks(stage(), environment, frozenset({"lo", "eth0"}))] == [status]


def test_nccl_does_not_matter_to_a_cpu_training():
    assert network_checks(stage("nano"), {"NCCL_P2P_DISABLE": "1"}, frozenset())[0].status == "ok"
