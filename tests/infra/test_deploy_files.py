"""The image, compose, Kubernetes and `ray up` files, each by a schema or a client-side tool of its own kind; no engine runs here.

Once, by hand: hadolint 2.15.1 on the Dockerfile, and the RayCluster against KubeRay's CRD with unknown fields refused; both without a finding.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.settings import REPOSITORY

INFRA = REPOSITORY / "infra"
COMPOSE = INFRA / "compose" / "compose.yaml"
MANIFESTS = sorted(path for path in (INFRA / "k8s").glob("*.yaml") if path.name != "kustomization.yaml")


def documents() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


# --- image


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, lines joined, comments left out."""
    lines = (line for line in (INFRA / "image" / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def test_the_image_is_of_stages_hash_locked_and_not_roots() -> None:
    found = instructions()
    bases = [text for name, text in found if name == "FROM"]
    stages = {base.split(" AS ")[1] for base in bases}
    assert {"build", "run", "server", "default"} == stages and all(" AS " in base for base in bases)
    outside = [base.split()[0] for base in bases if base.split()[0] not in stages]
    assert outside and all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base) for base in outside), "a full version, never `latest`"
    installs = [text for name, text in found if name == "RUN" and "pip install" in text]
    assert installs and all("--require-hashes" in text for text in installs)
    users = [text for name, text in found if name == "USER"]
    assert users == ["10001:10001"], "the last stage inherits it"
    assert not [name for name, _ in found if name == "ADD"]
    assert not [text for name, text in found if name in ("ENV", "ARG") and re.search(r"(?i)secret|password|token|_key", text)]


def test_what_the_image_copies_is_there_and_is_let_in() -> None:
    ignore = (REPOSITORY / ".dockerignore").read_text().splitlines()
    copied = [text for name, text in instructions() if name == "COPY" and "--from" not in text]
    for source in (part for text in copied for part in text.split()[:-1]):
        assert (REPOSITORY / source).exists(), source
        assert f"!{source}" in ignore, f"{source} is kept out by .dockerignore"
    assert ignore[1] == "*" or "*" in ignore


def test_the_lock_of_the_image_has_a_hash_for_every_package_and_the_versions_of_the_suite() -> None:
    def pins(name: str) -> dict[str, str]:
        text = (REPOSITORY / "requirements" / name).read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert all("--hash=sha256:" in line for line in lines), [line for line in lines if "--hash" not in line]
        return {m[1]: m[2] for line in lines if (m := re.match(r"([a-z0-9_.-]+)(?:\[[^]]*\])?==(\S+)", line))}

    image, suite = pins("cluster.txt"), pins("dev.txt")
    assert {"prefect-redis", "prefect-kubernetes", "torch", "ray"} <= set(image)
    assert {name: version for name, version in image.items() if suite.get(name, version) != version} == {}
    assert not {"pytest", "moto", "mypy"} & set(image)


@pytest.mark.parametrize(
    ("command", "address", "joins"),
    [(["sh", "-c", "exit 3"], "", False), (["sh", "-c", "exit 3"], "head:6379", True), (["ray", "start"], "head:6379", False)],
    ids=["no cluster", "a cluster", "a node itself"],
)
def test_a_driver_joins_the_cluster_and_a_node_does_not(command: list[str], address: str, joins: bool, tmp_path: Path) -> None:
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "$@" >> "$RAY_CALLS"\n')
    ray.chmod(0o755)
    calls = tmp_path / "calls"
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RAY_CALLS": str(calls), "RAY_ADDRESS": address}
    done = subprocess.run([str(INFRA / "image" / "join-ray.sh"), *command], env=env, timeout=20)
    said = calls.read_text().splitlines() if calls.exists() else []
    if joins:
        assert said[0].startswith("start --address=head:6379 --num-cpus=0 --num-gpus=0") and said[-1] == "stop"
    else:
        assert said == (["start"] if command[0] == "ray" else [])
    assert done.returncode == (0 if command[0] == "ray" else 3), "the command's own status"


# --- compose


def test_compose_by_the_compose_specification() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed: make install")
    options = compose_spec.PyOptions()
    options.apply_merge = True
    text = COMPOSE.read_text()
    assert len(options.from_yaml(text).to_dict()["services"]) == 9
    options.from_yaml(text).validate()
    for right, wrong in (("    ports:", "    portz:"), ("condition: service_healthy", "condition: soon")):
        with pytest.raises(ValueError):
            options.from_yaml(text.replace(right, wrong, 1)).validate()


def test_compose_has_every_part_healthy_first_and_published_on_loopback_only() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(services) == {
        "postgres", "redis", "s3", "bucket", "prefect-server", "ray-head", "ray-worker", "prefect-worker", "tensorboard",
    }  # fmt: skip
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert name == "bucket" or service["healthcheck"]["test"], name
        assert re.search(r":[^:/]*\d+\.?\d*", service["image"]) and not service["image"].endswith("latest"), name
        for other, condition in service.get("depends_on", {}).items():
            assert condition["condition"] == ("service_completed_successfully" if other == "bucket" else "service_healthy")
        if service["image"].startswith("pvtt"):
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
    server = services["prefect-server"]["environment"]
    assert server["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_AUTH:?") and "postgresql+asyncpg" in server[DATABASE]


DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"


def test_compose_takes_every_secret_from_its_env_file_and_the_example_names_them_all() -> None:
    wanted = set(re.findall(r"\$\{([A-Z0-9_]+)(?::\?[^}]*)?\}", COMPOSE.read_text()))
    example = {line.partition("=")[0]: line.partition("=")[2] for line in (INFRA / "compose" / "example.env").read_text().splitlines() if "=" in line}
    assert set(example) == wanted and not any(example.values())
    assert ".env" in (REPOSITORY / ".gitignore").read_text().splitlines()
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"SECRET|PASSWORD|TOKEN|AUTH_STRING|ACCESS_KEY", name):
                assert value.startswith("${"), name


def test_the_topology_under_test_gives_the_server_what_compose_gives_it() -> None:
    """tests/topology/native.py stands for the compose file."""
    server = yaml.safe_load(COMPOSE.read_text())["services"]["prefect-server"]["environment"]
    native = (REPOSITORY / "tests" / "topology" / "native.py").read_text()
    for name, value in server.items():
        assert f'"{name}"' in native, name
        if value.startswith("prefect_redis."):
            assert f'"{name}": "{value}"' in native


# --- Kubernetes


def test_every_manifest_by_the_kubernetes_clients_own_models() -> None:
    client = pytest.importorskip("kubernetes_asyncio.client", reason="kubernetes-asyncio is not installed: make install")
    models = {
        "Namespace": "V1Namespace", "ConfigMap": "V1ConfigMap", "ServiceAccount": "V1ServiceAccount", "Role": "V1Role", "Deployment": "V1Deployment",
        "RoleBinding": "V1RoleBinding", "NetworkPolicy": "V1NetworkPolicy",
    }  # fmt: skip
    seen = []
    for document in documents():
        if document["kind"] == "RayCluster":
            groups = [document["spec"]["headGroupSpec"], *document["spec"]["workerGroupSpecs"]]
            for group in groups:
                fits(client, group["template"], "V1PodTemplateSpec")
        else:
            fits(client, document, models[document["kind"]])
        seen.append(document["kind"])
    assert set(seen) == {*models, "RayCluster"}
    job = json.loads((INFRA / "k8s" / "base-job-template.json").read_text())["job_configuration"]["job_manifest"]
    fits(client, job, "V1Job", templated=True)
    with pytest.raises(AssertionError, match="imagePulPolicy"):
        fits(client, {"spec": {"containers": [{"name": "x", "imagePulPolicy": "Always"}]}}, "V1PodTemplateSpec")


def fits(client: Any, value: Any, kind: str, where: str = "", templated: bool = False) -> None:
    """Every field is one of the model, of its type, and none that it requires is missing. templated: '{{ x }}' stands for anything."""
    if templated and isinstance(value, str) and value.startswith("{{"):
        return
    if m := re.fullmatch(r"list\[(.*)\]", kind):
        assert isinstance(value, list), f"{where} is no list"
        for i, item in enumerate(value):
            fits(client, item, m[1], f"{where}[{i}]", templated)
    elif m := re.fullmatch(r"dict\([^,]*, (.*)\)", kind):
        assert isinstance(value, dict), f"{where} is no mapping"
        for name, item in value.items():
            fits(client, item, m[1], f"{where}.{name}", templated)
    elif hasattr(client, kind):
        model = getattr(client, kind)
        fields = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
        assert isinstance(value, dict), f"{where} is no {kind}"
        assert set(value) <= set(fields), f"{where}: {kind} has no {set(value) - set(fields)}"
        for name, item in value.items():
            fits(client, item, fields[name], f"{where}.{name}", templated)
        known = {name: value.get(json_name) for name, json_name in model.attribute_map.items()}
        model(**known)  # raises where a required field is missing
    elif kind in ("str", "int", "bool", "float"):
        expected = {"str": str, "int": int, "bool": bool, "float": (int, float)}[kind]
        assert isinstance(value, expected), f"{where} is {value!r}, not {kind}"


def test_kustomize_builds_all_of_it() -> None:
    listed = yaml.safe_load((INFRA / "k8s" / "kustomization.yaml").read_text())
    assert sorted(listed["resources"]) == [path.name for path in MANIFESTS] and listed["namespace"] == "pvtt"
    if shutil.which("kubectl"):
        built = subprocess.run(["kubectl", "kustomize", str(INFRA / "k8s")], capture_output=True, text=True, timeout=60)
        assert built.returncode == 0, built.stderr
        assert len(list(yaml.safe_load_all(built.stdout))) == len(documents())


def test_pods_are_restricted_secrets_only_referred_to_and_the_network_closed() -> None:
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents()}
    assert not [key for key in found if key[0] == "Secret"], "a Secret's value has no place in a file"
    pods = [found["Deployment", "prefect-worker"]["spec"]["template"]["spec"]]
    cluster = found["RayCluster", "pvtt"]["spec"]
    pods += [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["image"] == "pvtt:0.1.0" and "memory" in container["resources"]["limits"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "pvtt-ray"}
    policy = found["NetworkPolicy", "pvtt"]["spec"]
    assert policy["podSelector"] == {} and policy["policyTypes"] == ["Ingress", "Egress"] and all("from" in rule for rule in policy["ingress"])


# --- ray up


def test_the_ray_up_file_by_rays_own_validator() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((INFRA / "ray" / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    assert config["provider"]["use_internal_ips"] and "127.0.0.1" in config["head_start_ray_commands"][1]
    assert all("RAY_AUTH_MODE=token" in commands[1] for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]))
