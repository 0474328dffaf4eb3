"""The Helm chart, rendered, and what is in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.support.composed import ROOT

CHART = ROOT / "deploy" / "helm" / "featherwire"


NEEDED: dict[str, Any] = {"database": {"secretName": "db"}, "tls": {"secretName": "tls"}}


SHARED: dict[str, Any] = {"ingest": {"sharedLog": True, "replicas": 3}}


RAY: dict[str, Any] = {
    "ray": {
        "enabled": True,
        "auth": {"secretName": "ray"},
        "replicas": {"gpus": 0.25},
        "workers": {
            "gpus": 1, "min": 2, "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}], "affinity": {"nodeAffinity": {}},
        },
    },
}  # fmt: skip


PEER = {"podSelector": {"matchLabels": {"app": "prometheus"}}}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "bare": {
        "console": {"enabled": False},
        "metrics": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "topologySpread": {"enabled": False},
        "serviceAccount": {"create": False},
    },
    "everything": {
        "fullnameOverride": "cameras",
        "image": {"repository": "registry.example/featherwire-cloud", "tag": "1.2"},
        "imagePullSecrets": [{"name": "registry"}],
        "ingest": {
            **SHARED["ingest"],
            "gpus": 1,
            "workers": 2,
            "settings": {"keep_days": 30, "quota_frames": 5},
            "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://otel:4318"}],
            "podAnnotations": {"a": "b"},
            "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
        },
        "weights": {
            "persistence": {
                "enabled": True, "storageClassName": "fast", "accessMode": "ReadWriteMany",
            }
        },
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "console": {
            "ingress": {
                "enabled": True, "className": "nginx", "host": "cams.example",
                "tlsSecretName": "console-tls", "annotations": {"a": "b"},
            }
        },
        "metrics": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "rules": {"enabled": True},
            "dashboard": {"enabled": True},
        },
        "networkPolicy": {"devicesFrom": [PEER], "metricsFrom": [PEER], "consoleFrom": [PEER]},
        "autoscaling": {"enabled": True, "kind": "hpa"},
        "serviceAccount": {"annotations": {"a": "b"}},
    },
    "keda": {**SHARED, "autoscaling": {"enabled": True, "kind": "keda"}},
    "ray": {**SHARED, **RAY, "imagePullSecrets": [{"name": "registry"}]},
    "ray for one": {**RAY, "networkPolicy": {"enabled": False}},
}  # fmt: skip


Render = Callable[[dict[str, Any]], list[dict[str, Any]]]


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == kind]


def pod_templates(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of Deployments by their names; those of a RayCluster with the labels that KubeRay adds."""
    for one in of_kind(objects, "Deployment"):
        yield one["metadata"]["name"], one["spec"]["template"]
    for one in of_kind(objects, "RayCluster"):
        for kind, group in (
            ("head", one["spec"]["headGroupSpec"]),
            *(("worker", group) for group in one["spec"]["workerGroupSpecs"]),
        ):
            template = copy.deepcopy(group["template"])
            template["metadata"]["labels"] |= {
                "ray.io/cluster": one["metadata"]["name"], "ray.io/node-type": kind,
                "app.kubernetes.io/name": "kuberay",
            }  # fmt: skip
            yield f"{one['metadata']['name']}-{kind}", template


def of_kind_names(objects: list[dict[str, Any]], *kinds: str) -> list[str]:
    return [one["metadata"]["name"] for one in objects if one["kind"] in kinds]


def containers(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for _, template in pod_templates(objects):
        yield from template["spec"].get("initContainers", ())
        yield from template["spec"]["containers"]


def settings_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (config,) = (one for one in of_kind(objects, "ConfigMap") if "cloud.yaml" in one["data"])
    settings: dict[str, Any] = yaml.safe_load(config["data"]["cloud.yaml"])
    return settings
