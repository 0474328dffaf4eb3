"""Prometheus' configuration, its alerts and Grafana's dashboard ask for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from cloud_server.telemetry.metrics import Metrics
from tests.support.composed import DASHBOARD, DEPLOY, read

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
OF_OTHERS = {
    # Prometheus' own
    "up", "ALERTS",
    # postgres-exporter's
    "pg_up", "pg_database_size_bytes", "pg_stat_database_xact_commit",
    "pg_stat_database_xact_rollback",
}  # fmt: skip


def ours() -> dict[str, set[str]]:
    """Names of our series, each with the labels that it has."""
    registry = Metrics().registry
    known = {one.name: set(one.labels) for family in registry.collect() for one in family.samples}
    for name, collector in registry._names_to_collectors.items():
        labels = set(getattr(collector, "_labelnames", ()))
        known[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return known


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Name and labels of every series that a PromQL expression asks for."""
    text = expression.replace("$__rate_interval", "5m")

    def walk(node: Any) -> Iterator[tuple[str, set[str]]]:
        if isinstance(node, promql_parser.VectorSelector):
            yield node.name, {matcher.name for matcher in node.matchers.matchers}
        for part in ("expr", "lhs", "rhs", "param", "vector_selector"):
            if (child := getattr(node, part, None)) is not None:
                yield from walk(child)
        for child in getattr(node, "args", None) or ():
            yield from walk(child)

    yield from walk(promql_parser.parse(text))


def asked() -> list[tuple[str, str]]:
    """(where, expression) of every query in deploy/."""
    queries = [(rule["alert"], rule["expr"]) for rule in RULES]
    for panel in DASHBOARD["panels"]:
        queries += [(panel["title"], target["expr"]) for target in panel.get("targets", ())]
    return queries


def test_the_walk_finds_every_series() -> None:
    query = '1 - sum by (x) (rate(a_total{k="v"}[$__rate_interval])) / max(b) unless c'
    assert dict(selectors(query)) == {"a_total": {"k"}, "b": set(), "c": set()}


@pytest.mark.parametrize(("where", "expression"), asked())
def test_what_is_asked_for_exists(where: str, expression: str) -> None:
    known, found = ours(), list(selectors(expression))
    assert found or expression == "vector(0)"
    for name, labels in found:
        assert name in known or name in OF_OTHERS, name
        if name in known:
            assert labels - {"instance", "job"} <= known[name], (name, labels)
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    of_all = set().union(*(known.get(name, {"datname"}) for name, _ in found))
    for names in grouped:
        assert {name.strip() for name in names.split(",")} <= of_all | {"instance"}


def test_the_dashboard_shows_all_that_is_measured() -> None:
    """A metric that no panel shows would be one that nobody looks at."""
    shown = {name for _, expression in asked() for name, _ in selectors(expression)}
    measured = {name for name in ours() if name.startswith("featherwire_")}
    forms = re.compile("_(bucket|sum|count|created)$")
    missing = {forms.sub("", name) for name in measured} - {forms.sub("", name) for name in shown}
    assert {name for name in missing if f"{name}_total" not in measured} == set()


def test_the_dashboard_is_provisioned() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "featherwire.yml").read_text())[
        "providers"
    ]
    mounts = read()["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro" in mounts


def test_panels_are_whole_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(panels)))
    assert used == variables | {"__rate_interval"}


def test_alerts_say_what_they_are() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def promtool(*words: str | Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_configuration_and_rules() -> None:
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_alerts_fire_when_they_shall(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("alerts.test.yml"), tmp_path)
    promtool("test", "rules", tmp_path / "alerts.test.yml")
