"""Ray in the chart. KubeRay's schemas are not at hand: what is a Pod is checked in test_helm.py."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.support.chart import NEEDED, RAY, SHARED, Render, of_kind, pod_templates, settings_of
from tests.support.composed import ROOT

TOKEN = {"secretKeyRef": {"name": "ray", "key": "auth_token"}}
WEIGHTS = "/home/featherwire/.cache/featherwire"


@pytest.fixture(scope="module")
def objects(render: Render) -> list[dict[str, Any]]:
    return render({**SHARED, **RAY})


def server_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(pod_templates(objects))["cams-featherwire"]["spec"]


def cluster_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (one,) = of_kind(objects, "RayCluster")
    return one["spec"]


def node_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The container with Ray's node in a server's Pod."""
    (one,) = (one for one in server_of(objects)["initContainers"] if one["name"] == "ray")
    return one


def nodes_of(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The containers of Ray: head, worker, and the one beside a server."""
    spec = cluster_of(objects)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [one["template"]["spec"]["containers"][0] for one in groups] + [node_of(objects)]


def parameters(objects: list[dict[str, Any]]) -> list[tuple[bool, list[str]]]:
    """(whether it is the head, words after `ray start`) of every node."""
    spec = cluster_of(objects)
    groups = [(True, spec["headGroupSpec"]), *((False, one) for one in spec["workerGroupSpecs"])]
    found = [
        (head, [f"--{name}={value}" for name, value in group["rayStartParams"].items()])
        for head, group in groups
    ]
    return [*found, (False, node_of(objects)["args"])]


def mounts(container: dict[str, Any]) -> dict[str, str]:
    return {one["mountPath"]: one["name"] for one in container["volumeMounts"]}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"auth": {"secretName": ""}}, "Ray's token"),
        ({"replicas": {"gpus": 2}}, "ray.replicas.gpus is more than a worker has"),
        ({"replicas": {"min": 5}}, "min is more than max"),
        ({"workers": {"min": 5}}, "min is more than max"),
        ({"workers": {"sharedMemory": "64Mi"}}, "sharedMemory"),
        ({"replicas": {"cpus": "many"}}, "cpus"),
    ],
)
def test_a_cluster_that_cannot_work_is_refused(
    run: Callable[..., subprocess.CompletedProcess[str]], values: dict[str, Any], complaint: str
) -> None:
    ray = {"enabled": True, "auth": {"secretName": "ray"}, **values}
    done = run(["template", "cams"], {**NEEDED, "ray": ray})
    assert done.returncode != 0
    assert complaint in done.stderr


@pytest.mark.parametrize("of_servers", [{"workers": 2}, {"gpus": 1}])
def test_a_server_with_ray_analyses_nothing_itself(
    run: Callable[..., subprocess.CompletedProcess[str]], of_servers: dict[str, int]
) -> None:
    done = run(["template", "cams"], {**NEEDED, **RAY, "ingest": of_servers})
    assert done.returncode != 0
    assert "ray.workers" in done.stderr


def test_ray_needs_a_kubernetes_that_ends_it_after_the_server(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    old = run(["template", "cams", "--kube-version", "1.28.0"], {**NEEDED, **RAY})
    assert "1.29" in old.stderr
    assert old.returncode != 0
    without = run(["template", "cams", "--kube-version", "1.28.0"], NEEDED)
    assert without.returncode == 0, without.stderr


def test_the_settings_ask_for_what_the_workers_have(objects: list[dict[str, Any]]) -> None:
    settings = settings_of(objects)
    assert settings["engine"] == "ray"
    assert settings["ray_address"] == "auto"
    assert (settings["ray_min_replicas"], settings["ray_max_replicas"]) == (1, 4)
    assert (settings["ray_num_cpus"], settings["ray_num_gpus"]) == (1, 0.25)
    assert settings["device"] == "cuda"
    (workers,) = cluster_of(objects)["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["replicas"], workers["maxReplicas"]) == (2, 2, 4)
    assert workers["rayStartParams"]["num-gpus"] == "1"
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert mounts(container)[WEIGHTS] == mounts(server_of(objects)["containers"][0])[WEIGHTS]


def test_without_gpus_nothing_asks_for_one(render: Render) -> None:
    ray = {"enabled": True, "auth": {"secretName": "ray"}}
    objects = render({"ray": ray})
    assert "device" not in settings_of(objects)
    assert "nvidia" not in yaml.safe_dump(cluster_of(objects))


def test_a_cluster_is_there_only_when_it_is_asked_for(render: Render) -> None:
    text = yaml.safe_dump(render({}))
    assert "ray" not in text.replace("array", "")


def test_ray_start_takes_the_parameters(objects: list[dict[str, Any]]) -> None:
    scripts = pytest.importorskip("ray.scripts.scripts", reason="Ray is an extra")
    for head, words in parameters(objects):
        context = scripts.start.make_context("start", [*words, *(["--head"] if head else [])])
        assert (context.params["num_cpus"] == 0) is (head or "--block" in words)
        assert context.params["object_store_memory"] < 2**30  # of /dev/shm
    assert node_of(objects)["command"] == ["ray", "start"]


def test_a_server_and_the_node_beside_it_share_sockets_and_memory(
    objects: list[dict[str, Any]],
) -> None:
    (server,) = server_of(objects)["containers"]
    node = node_of(objects)
    for path in ("/tmp/ray", "/dev/shm"):
        assert mounts(server)[path] == mounts(node)[path]
    assert mounts(server)["/tmp"] != mounts(node)["/tmp"]
    assert server_of(objects)["shareProcessNamespace"] is True  # ray.init looks for a raylet there
    assert (
        node["restartPolicy"] == "Always"
    )  # of an init container: from before to after the server
    assert node["startupProbe"]
    assert f"--address={NAME}-head-svc.vision.svc:6379" in node["args"]
    shared = {
        volume["name"]: volume["emptyDir"]
        for volume in server_of(objects)["volumes"]
        if "emptyDir" in volume
    }
    assert shared[mounts(node)["/dev/shm"]] == {"medium": "Memory", "sizeLimit": "1Gi"}


NAME = "cams-featherwire-ray"


def test_every_node_has_the_token_and_none_the_database(objects: list[dict[str, Any]]) -> None:
    autoscaler = cluster_of(objects)["autoscalerOptions"]
    for one in (*nodes_of(objects), autoscaler, server_of(objects)["containers"][0]):
        names = {variable["name"]: variable for variable in one["env"]}
        assert names["RAY_AUTH_MODE"]["value"] == "token"
        assert names["RAY_AUTH_TOKEN"]["valueFrom"] == TOKEN
    for one in (*nodes_of(objects), autoscaler):
        assert not any(variable["name"].startswith("FEATHERWIRE") for variable in one["env"])
    texts = yaml.safe_dump(cluster_of(objects))
    assert "/etc/featherwire" not in texts  # neither keys nor settings
    for node in nodes_of(objects):  # KubeRay's own want wget
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(node)


def test_the_network_policy_opens_the_ports_that_ray_is_told_to_use(
    objects: list[dict[str, Any]],
) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(objects, "NetworkPolicy")}
    peers = [
        {"podSelector": {"matchLabels": {"ray.io/cluster": NAME}}},
        {"podSelector": policies["cams-featherwire"]["podSelector"]},
    ]
    for name in ("cams-featherwire", NAME):
        for rules, key in ((policies[name]["ingress"], "from"), (policies[name]["egress"], "to")):
            (rule,) = (rule for rule in rules if rule.get(key) == peers)
            opened = {
                port
                for one in rule["ports"]
                for port in range(one["port"], one.get("endPort", one["port"]) + 1)
            }
            assert {6379} <= opened
            for _, words in parameters(objects):
                told = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
                used = {
                    int(told[port])
                    for port in ("node-manager-port", "object-manager-port",
                                 "dashboard-agent-grpc-port", "runtime-env-agent-port")
                }  # fmt: skip
                used |= set(range(int(told["min-worker-port"]), int(told["max-worker-port"]) + 1))
                assert used <= opened
                assert not opened & {7570, 9464, 8080, 8265, 52365}
    for rules in policies[NAME]["ingress"]:
        assert rules["from"] == peers  # and nobody else


def test_the_version_is_that_of_the_image(objects: list[dict[str, Any]]) -> None:
    pins = (ROOT / "constraints.txt").read_text().split()
    assert f"ray=={cluster_of(objects)['rayVersion']}" in pins
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "ray" in extras["optional-dependencies"]
