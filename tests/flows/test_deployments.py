"""prefect.yaml and the cluster's job template, by Prefect's own models; what set_up makes on a server is tested in survival/."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.events.schemas.automations import Automation
from prefect.utilities.templating import find_placeholders

from flows.set_up import OURS, SILENT_S, TYPES, UNBEGUN_S, crashed_runs, runs_never_heard, runs_that_never_began
from infra.local_services import deployments_of
from infra.settings import REPOSITORY

FILE = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = FILE["deployments"]
FLOWS = {path.stem for path in (REPOSITORY / "flows").glob("*.py") if "@flow(" in path.read_text()}


def flow_of(deployment: dict[str, Any]) -> Any:
    file, _, name = deployment["entrypoint"].partition(":")
    return getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)


def test_every_flow_stands_on_both_pools_under_prefects_model() -> None:
    model = PrefectYamlModel.model_validate(FILE)
    assert len({d.name for d in model.deployments}) == len(model.deployments) == len(DEPLOYMENTS)
    assert {d["work_pool"]["name"] for d in DEPLOYMENTS} == set(TYPES)
    for pool in TYPES:
        assert {flow_of(d).fn.__name__ for d in DEPLOYMENTS if d["work_pool"]["name"] == pool} == FLOWS
    assert deployments_of("local") == ["full-curriculum", "curate", "train", "evaluate", "retrain"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_a_deployment_names_a_flow_with_its_parameters_and_nothing_of_training(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    assert isinstance(flow, Flow)
    assert set(deployment["parameters"]) == {"recipe", "clips"} <= set(flow.parameters.properties)
    assert deployment["version"] == "{{ code.stdout }}" and "pvtt" in deployment["tags"]
    pulls = deployment.get("pull")
    if deployment["work_pool"]["name"] == "local":
        assert pulls is None, "a run uses the folder that it was deployed from"
    else:
        assert pulls == [{"prefect.deployments.steps.set_working_directory": {"directory": "/opt/pvtt"}}]


def test_nightly_retraining_is_off_and_never_beside_another() -> None:
    for deployment in (d for d in DEPLOYMENTS if d["name"].startswith("retrain")):
        (schedule,) = deployment["schedules"]
        assert schedule["active"] is False and schedule["cron"] == "0 3 * * *"
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert not [d for d in DEPLOYMENTS if "schedules" in d and not d["name"].startswith("retrain")]


def test_the_clusters_job_template_fills_every_placeholder_and_makes_a_restricted_pod() -> None:
    template = json.loads((REPOSITORY / "infra/k8s/base-job-template.json").read_text())
    placeholders = {p.name for p in find_placeholders(template["job_configuration"])}
    assert placeholders == set(template["variables"]["properties"])
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]} and not container["securityContext"]["allowPrivilegeEscalation"]
    assert {"secretRef": {"name": "pvtt-store"}} in container["envFrom"], "credentials by reference"


def test_a_job_of_the_template_by_the_kubernetes_worker_itself() -> None:
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="prefect-kubernetes is of the group 'cluster'")
    template = json.loads((REPOSITORY / "infra/k8s/base-job-template.json").read_text())
    job = {"type": "object", "properties": template["variables"]["properties"]}
    defaults = {name: p["default"] for name, p in job["properties"].items() if "default" in p}
    from prefect.utilities.templating import apply_values

    values = apply_values(template["job_configuration"], {**defaults, "name": "nano", "command": "prefect flow-run execute", "env": {"A": "1"}})
    made = worker.KubernetesWorkerJobConfiguration.model_validate(values)
    assert made.namespace == "pvtt"
    assert made.job_manifest["spec"]["template"]["spec"]["containers"][0]["image"] == "pvtt:0.1.0"


def test_a_silent_run_is_crashed_only_after_more_than_a_servers_restart() -> None:
    automation = crashed_runs()
    assert SILENT_S >= 3 * 60 and automation.trigger.within.total_seconds() == SILENT_S
    ends = {event.rpartition(".")[2] for event in automation.trigger.expect}
    assert {"Completed", "Failed", "Cancelled", "Crashed", "Paused", "heartbeat"} <= ends
    Automation.model_validate({"id": "00000000-0000-0000-0000-000000000001", **automation.model_dump(mode="json")})


def test_a_run_killed_before_its_first_sign_of_life_is_crashed_where_its_deployment_has_it_tell() -> None:
    """Only of our deployments, every one of which sets the frequency: a run of somebody else's may never tell, and live."""
    automation = runs_never_heard()
    assert automation.trigger.after == {"prefect.flow-run.Running"} and automation.trigger.within.total_seconds() == SILENT_S
    assert {"prefect.flow-run.heartbeat", "prefect.flow-run.Completed", "prefect.flow-run.Crashed"} <= set(automation.trigger.expect)
    assert [related.model_dump() for related in automation.trigger.match_related] == OURS
    for deployment in DEPLOYMENTS:
        assert "pvtt" in deployment["tags"]
        assert int(deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) * 3 < SILENT_S
    Automation.model_validate({"id": "00000000-0000-0000-0000-000000000001", **automation.model_dump(mode="json")})


def test_a_run_that_its_worker_did_not_live_to_begin_is_crashed_and_one_that_began_is_not() -> None:
    automation = runs_that_never_began()
    assert automation.trigger.after == {"prefect.flow-run.Pending"} and automation.trigger.within.total_seconds() == UNBEGUN_S
    assert {"prefect.flow-run.Running", "prefect.flow-run.Crashed", "prefect.flow-run.Cancelled"} <= set(automation.trigger.expect)
    Automation.model_validate({"id": "00000000-0000-0000-0000-000000000001", **automation.model_dump(mode="json")})
