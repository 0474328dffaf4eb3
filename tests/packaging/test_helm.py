"""The Helm chart: rendered by Helm, checked against Kubernetes' schemas and our own commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cloud_server.serve.health import LIVE
from cloud_server.telemetry.metrics import Metrics
from tests.support.chart import (
    NEEDED,
    SHARED,
    VARIANTS,
    Render,
    containers,
    of_kind,
    of_kind_names,
    pod_templates,
    settings_of,
)
from tests.support.composed import ROOT, parse

OF_OPERATORS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "RayCluster"}
"""Their schemas are not at hand; what is a Pod in a RayCluster is checked as one."""


@pytest.fixture(scope="module", params=VARIANTS)
def objects(request: pytest.FixtureRequest, render: Render) -> list[dict[str, Any]]:
    return render(VARIANTS[request.param])


@pytest.mark.parametrize("name", VARIANTS)
def test_lint_finds_nothing(
    run: Callable[..., subprocess.CompletedProcess[str]], name: str
) -> None:
    done = run(["lint", "--strict"], {**NEEDED, **VARIANTS[name]})
    assert done.returncode == 0, done.stdout


def test_manifests_follow_kubernetes_schemas(objects: list[dict[str, Any]]) -> None:
    for one in objects:
        if one["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(one, "1.31", strict=True)
        assert {"name", "labels"} <= set(one["metadata"])
    for name, template in pod_templates(objects):
        of_ray = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
        kubernetes_validate.validate(of_ray | {"template": template}, "1.31", strict=True)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)


def test_the_schemas_do_see_mistakes(render: Render) -> None:
    (server, *_) = of_kind(render({}), "Deployment")
    server["spec"]["template"]["spec"]["containers"][0]["prots"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(server, "1.31", strict=True)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"database": {"secretName": ""}}, "database"),
        ({"tls": {"secretName": ""}}, "tls"),
        ({"ingest": {"replicas": 2}}, "one server a log"),
        ({"autoscaling": {"enabled": True}}, "one server a log"),
        ({"ingest": {"replicsa": 1}}, "replicsa"),
        ({"ingest": {"settings": {"database": "postgresql://u:p@h/n"}}}, "propertyName 'database'"),
        ({"ingest": {"settings": {"shared_log": True}}}, "propertyName 'shared_log'"),
        ({"autoscaling": {"kind": "magic"}}, "kind"),
        ({**SHARED, "autoscaling": {"enabled": True, "maxReplicas": 1}}, "more than maxReplicas"),
        ({**SHARED, "weights": {"persistence": {"enabled": True}}}, "ReadWriteMany"),
        ({"console": {"ingress": {"enabled": True, "host": "x"}}}, "tlsSecretName"),
    ],
)
def test_values_that_cannot_work_are_refused(
    run: Callable[..., subprocess.CompletedProcess[str]], values: dict[str, Any], complaint: str
) -> None:
    done = run(["template", "cams"], {**NEEDED, **values})
    assert done.returncode != 0
    assert complaint in done.stderr


def test_selectors_find_the_pods_that_they_mean(objects: list[dict[str, Any]]) -> None:
    pods = {name: template["metadata"]["labels"] for name, template in pod_templates(objects)}

    def found(selector: dict[str, str]) -> set[str]:
        return {name for name, labels in pods.items() if selector.items() <= labels.items()}

    for one in of_kind(objects, "Deployment"):
        assert found(one["spec"]["selector"]["matchLabels"]) == {one["metadata"]["name"]}
    for one in of_kind(objects, "Service"):
        (pod,) = found(one["spec"]["selector"])
        ports = {
            port["name"] for container in containers(objects) for port in container.get("ports", ())
        }
        assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports
        assert one["metadata"]["name"].removesuffix("-metrics") == pod
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for one in of_kind(objects, kind):
            selector = one["spec"].get("selector") or one["spec"]["podSelector"]
            name = one["metadata"]["name"]
            of_ray = {pod for pod in pods if name.endswith("-ray") and pod.startswith(name)}
            assert found(selector["matchLabels"]) == (of_ray or {name})
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for one in of_kind(objects, kind):
            assert one["spec"]["scaleTargetRef"]["name"] in pods
            (server,) = (
                d
                for d in of_kind(objects, "Deployment")
                if "console" not in str(d["metadata"]["name"])
            )
            assert "replicas" not in server["spec"]  # or every upgrade would undo the scaling
    services = [one["metadata"]["labels"] for one in of_kind(objects, "Service")]
    for one in of_kind(objects, "ServiceMonitor"):
        wanted = one["spec"]["selector"]["matchLabels"].items()
        assert sum(wanted <= labels.items() for labels in services) == 1
    for one in of_kind(objects, "Ingress"):
        (rule,) = one["spec"]["rules"]
        backend = rule["http"]["paths"][0]["backend"]["service"]["name"]
        assert backend in {service["metadata"]["name"] for service in of_kind(objects, "Service")}


def test_what_is_mounted_is_there(objects: list[dict[str, Any]]) -> None:
    claims = {one["metadata"]["name"] for one in of_kind(objects, "PersistentVolumeClaim")}
    maps = {one["metadata"]["name"] for one in of_kind(objects, "ConfigMap")}
    accounts = {one["metadata"]["name"] for one in of_kind(objects, "ServiceAccount")}
    for _, template in pod_templates(objects):
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        used = {
            mount["name"]
            for container in (*spec.get("initContainers", ()), *spec["containers"])
            for mount in container["volumeMounts"]
        }
        assert used == set(volumes)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
        assert spec.get("serviceAccountName", "default") in accounts | {"default"}


def test_nothing_runs_as_root_or_writes_where_it_should_not(objects: list[dict[str, Any]]) -> None:
    for name, template in pod_templates(objects):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001  # the images' own
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # Ray's autoscaler is in the head's Pod, and asks Kubernetes for workers.
        assert spec["automountServiceAccountToken"] is name.endswith("-ray-head")
    for container in containers(objects):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
    (text,) = re.findall(r"^USER (\d+)$", (ROOT / "deploy/cloud.Dockerfile").read_text(), re.M)
    assert text == "10001"


def test_no_secret_is_in_clear(objects: list[dict[str, Any]]) -> None:
    assert not of_kind(objects, "Secret")
    assert "database" not in settings_of(objects)
    for container in containers(objects):
        for variable in container.get("env", ()):
            if variable["name"] == "FEATHERWIRE_DATABASE":
                assert variable["valueFrom"]["secretKeyRef"] == {"name": "db", "key": "url"}
    texts = json.dumps([one for one in objects if one["kind"] != "PrometheusRule"])
    assert not re.search(r"://[^/\"]*:[^/\"]*@", texts)


def test_the_consoles_pod_has_no_key_of_the_server(objects: list[dict[str, Any]]) -> None:
    for deployment in of_kind(objects, "Deployment"):
        if "console" in deployment["metadata"]["name"]:
            secrets = [
                volume["secret"]
                for volume in deployment["spec"]["template"]["spec"]["volumes"]
                if "secret" in volume
            ]
            assert [one["items"] for one in secrets] == [[{"key": "ca.crt", "path": "ca.crt"}]]


def test_commands_and_settings_are_ours(
    objects: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cloud_server.auth.development_ca import make_development_ca
    from cloud_server.serve.settings import ServerSettings

    for container in containers(objects):
        if not container["name"].startswith("ray"):  # test_helm_ray.py
            assert "command" not in container  # the image's entrypoint
            parse("featherwire-cloud", container["args"])
    for name in [name for name in os.environ if name.startswith("FEATHERWIRE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FEATHERWIRE_DATABASE", "postgresql://db/featherwire")  # as the Secret does
    make_development_ca(tmp_path)
    settings = settings_of(objects)
    settings["tls_certificate"] = str(tmp_path / "server.pem")
    settings["tls_key"] = str(tmp_path / "server.key")
    (tmp_path / "cloud.yaml").write_text(yaml.safe_dump(settings))
    loaded = ServerSettings.load(tmp_path / "cloud.yaml")
    for deployment in of_kind(objects, "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        if "terminationGracePeriodSeconds" in spec:
            assert loaded.drain_deadline_s < spec["terminationGracePeriodSeconds"]


def test_probes_run_a_script_that_the_image_has(objects: list[dict[str, Any]]) -> None:
    dockerfile = (ROOT / "deploy" / "cloud.Dockerfile").read_text()
    (server,) = (one for one in containers(objects) if one["name"] == "server")
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = server[kind]["exec"]["command"]
        assert f" {command[1]}\n" in dockerfile
        assert len(command) == 5
        mounts = {mount["mountPath"] for mount in server["volumeMounts"]}
        assert command[3].rpartition("/")[0] in mounts
        # Without its database a server is not ready, and none the better for another start.
        assert command[2].endswith(f"/{LIVE}") == (kind == "livenessProbe")


def test_scaling_and_alerts_ask_for_metrics_that_there_are(objects: list[dict[str, Any]]) -> None:
    known = set(Metrics().registry._names_to_collectors)
    asked = {
        metric["pods"]["metric"]["name"]
        for one in of_kind(objects, "HorizontalPodAutoscaler")
        for metric in one["spec"]["metrics"]
    }
    for one in of_kind(objects, "ScaledObject"):
        for trigger in one["spec"]["triggers"]:
            asked |= set(re.findall(r"featherwire_\w+", trigger["metadata"]["query"]))
    assert asked <= known
    for one in of_kind(objects, "PrometheusRule"):
        assert one["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())


def test_a_server_waits_for_the_one_before_it_unless_they_share_a_log(render: Render) -> None:
    (alone,) = (one for one in of_kind(render({}), "Deployment") if one["spec"].get("strategy"))
    assert alone["spec"]["strategy"] == {"type": "Recreate"}
    (shared,) = (
        one for one in of_kind(render(SHARED), "Deployment") if one["spec"].get("strategy")
    )
    assert shared["spec"]["strategy"]["type"] == "RollingUpdate"
    assert shared["spec"]["replicas"] == 3


def test_servers_share_a_log_by_their_settings(objects: list[dict[str, Any]]) -> None:
    (server,) = (one for one in of_kind(objects, "Deployment") if one["spec"].get("strategy"))
    rolls = server["spec"]["strategy"]["type"] == "RollingUpdate"
    assert settings_of(objects).get("shared_log", False) is rolls
    scaled = {*of_kind_names(objects, "HorizontalPodAutoscaler", "ScaledObject")}
    assert rolls or not scaled
