"""docker-compose.yml is valid, agrees with the images and our commands, and holds no secret."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from tests.support.composed import FILE, ROOT, Machine, parse, read

DEPLOY = ROOT / "deploy"
COMPOSE = read()
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
MOUNTED = [
    (name, *re.split(r":(?!-)", mount)[:3])
    for name, service in SERVICES.items()
    for mount in service.get("volumes", [])
]
CLOUD, EDGE = "featherwire-cloud", "featherwire-edge"


def check(document: dict[str, Any]) -> list[str]:
    """Names of the services. Raises ValueError for what the specification does not allow."""
    return list(compose_spec.PyCompose.from_json(json.dumps(document)).service_names())


def test_it_follows_the_specification() -> None:
    assert set(check(COMPOSE)) == set(SERVICES)
    assert check(read(DEPLOY / "compose" / "gpu.yml")) == ["cloud"]


@pytest.mark.parametrize(
    "wrong", [{"prots": []}, {"ports": ["a:b"]}, {"healthcheck": {"interval": "10x"}}]
)
def test_what_checks_it_does_see_mistakes(wrong: dict[str, Any]) -> None:
    broken = copy.deepcopy(COMPOSE)
    broken["services"]["cloud"].update(wrong)
    with pytest.raises(ValueError, match=r"error|invalid|not a valid|extension"):
        check(broken)


def test_compose_itself_takes_it() -> None:
    program = ["docker", "compose"]
    if subprocess.run([shutil.which("docker") or "false", "compose", "version"]).returncode:
        program = ["docker-compose"]
        if shutil.which(*program) is None:
            pytest.skip("Docker Compose is not installed")
    for files in (["-f", str(FILE)], ["-f", str(FILE), "-f", str(DEPLOY / "compose" / "gpu.yml")]):
        done = subprocess.run([*program, *files, "config", "-q"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", OURS)
def test_service_builds_from_a_file_that_exists(name: str) -> None:
    build = OURS[name]["build"]
    text = (ROOT / build["context"] / build["dockerfile"]).read_text()
    assert set(build.get("args", {})) <= set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    if "target" in build:
        assert f" AS {build['target']}\n" in text
    assert OURS[name]["image"] != COMPOSE["services"]["camera"]["image"] or name == "camera"


def test_every_mounted_file_and_volume_exists_and_is_used() -> None:
    sources = {source for _, source, *_ in MOUNTED}
    volumes = {source for source in sources if not source.startswith(".")}
    assert volumes == set(COMPOSE["volumes"])
    files = sources - volumes - {"./photos"}  # the user's own
    assert all((ROOT / source).exists() for source in files)


def test_a_new_volume_belongs_to_our_user() -> None:
    """A named volume takes its owner from the folder that the image has at its mount point."""
    for name, source, target, *_ in MOUNTED:
        if name in OURS and not source.startswith("."):
            text = (ROOT / OURS[name]["build"]["dockerfile"]).read_text()
            made = re.findall(r"install -d -o featherwire ((?:\S+(?:\s+\\\s+)?[ ]?)+)", text)
            folders = {word for words in made for word in words.replace("\\", " ").split()}
            read_only = f"{source}:{target}:ro" in OURS[name]["volumes"]
            assert target in folders or read_only, (name, target)


def test_dependencies_and_their_conditions_can_be_met() -> None:
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert SERVICES[name]["healthcheck"]["test"]
            else:
                assert wanted["condition"] == "service_completed_successfully"
                assert SERVICES[name]["restart"] == "no"


def test_one_command_starts_all_but_the_example_of_photos() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["photos"]
    wanted = {"cloud", "db", "prometheus", "grafana", "console", "camera"}
    assert wanted <= set(SERVICES)


def test_no_secret_is_in_the_file() -> None:
    """Passwords come from files that are made at the first start; no value is one."""
    environment = [
        (name, variable, str(value))
        for name, service in SERVICES.items()
        for variable, value in service.get("environment", {}).items()
    ]
    secret = re.compile("PASS|SECRET|TOKEN|KEY")
    named = [one for one in environment if secret.search(one[1])]
    assert {name for name, *_ in named} == {"db", "grafana", "database-metrics"}
    for name, variable, value in named:
        assert variable.endswith("_FILE"), (name, variable)
        assert value.startswith("/etc/featherwire/"), (name, variable)
    for name, _, value in environment:
        assert "://" not in value or re.fullmatch(r"\w+://featherwire@[^@]+", value), name


def test_secrets_are_mounted_where_they_are_needed_and_nowhere_else() -> None:
    readers: dict[str, set[str]] = {}
    for name, source, *_ in MOUNTED:
        readers.setdefault(source, set()).add(name)
    assert readers["keys"] == {"secrets", "tokens", "cloud"}
    assert readers["camera"] == {"tokens", "camera", "photos"}
    assert readers["database-password"] == {"secrets", "db", "database-metrics"}
    assert readers["grafana-password"] == {"secrets", "grafana"}
    for mount in ("keys", "ca", "camera", "database-password", "grafana-password"):
        for name, source, _, *mode in MOUNTED:
            makes_it = name in ("secrets", "tokens")
            assert source != mount or makes_it or mode == ["ro"], (name, mount)


def test_our_services_may_do_little() -> None:
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_only_devices_reach_it_from_outside() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.pop("cloud") == ["7570:7570"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_images_of_others_have_a_version() -> None:
    for name, service in SERVICES.items():
        if name not in OURS:
            assert re.search(r":v?\d", service["image"]), name


def test_commands_are_ours() -> None:
    for name in ("weights", "cloud", "console"):
        parse(CLOUD, SERVICES[name]["command"])
    parse(EDGE, SERVICES["camera"]["command"])
    words = shlex.split(SERVICES["photos"]["command"][0])
    assert words[:2] == ["exec", EDGE]
    parse(EDGE, words[2:])


def test_ports_agree() -> None:
    """Who is named where, by service and port, listens there."""
    exposed = re.search(r"^EXPOSE (.*)$", (DEPLOY / "cloud.Dockerfile").read_text(), re.MULTILINE)
    assert exposed is not None
    assert set(exposed[1].split()) == {"7570", "8080", "9464"}
    listening = {
        "cloud": {"7570", "9464"}, "console": {"8080"}, "db": {"5432"}, "prometheus": {"9090"},
        "database-metrics": {"9187"}, "grafana": {"3000"},
    }  # fmt: skip
    texts = [FILE.read_text()]
    texts += [file.read_text() for file in DEPLOY.glob("prometheus/*.yml")]
    texts += [file.read_text() for file in DEPLOY.glob("grafana/provisioning/*/*.yml")]
    named = re.findall(rf"\b({'|'.join(listening)}):(\d{{4,5}})\b", "\n".join(texts))
    assert {name for name, _ in named} >= {"cloud", "db", "prometheus", "database-metrics"}
    assert all(port in listening[name] for name, port in named), named
    settings = yaml.safe_load((DEPLOY / "cloud.yaml").read_text())
    assert settings["listen"].endswith(":7570")


def test_the_secrets_that_are_made_are_those_that_are_used(tmp_path: Path) -> None:
    """secrets.sh and tokens.sh run for real, twice; what others name is there, and stays."""
    etc = tmp_path / "etc"
    for folder in ("keys", "ca", "camera", "database", "grafana"):
        (etc / folder).mkdir(parents=True)
    machine = Machine(
        tmp_path, {"/etc/featherwire": str(etc), "/usr/local/lib/featherwire": str(tmp_path)}
    )
    machine.copy(DEPLOY / "compose" / "secrets.sh")
    machine.copy(DEPLOY / "compose" / "tokens.sh")
    tokens = copy.deepcopy(SERVICES["tokens"])
    tokens["environment"] = {"FEATHERWIRE_DATA": str(tmp_path / "data")}  # PostgreSQL: test_stack
    made: list[dict[str, bytes]] = []
    for _ in range(2):
        for service in (SERVICES["secrets"], tokens):
            assert machine.run(service, [CLOUD]) == 0, (tmp_path / "log").read_text()
        files = [path for path in etc.rglob("*") if path.is_file()]
        made.append({str(path.relative_to(etc)): path.read_bytes() for path in files})
    assert made[0] == made[1]
    texts = json.dumps(SERVICES) + (DEPLOY / "cloud.yaml").read_text()
    folders = "keys|ca|camera|database|grafana"
    used = set(re.findall(rf"/etc/featherwire/((?:{folders})/[a-z.]+)", texts))
    assert {"keys/server.pem", "keys/pgpass", "ca/ca.pem", "camera/token"} <= used
    assert used - {"keys/devices.pem"} <= set(made[0])
    modes = {name: stat.S_IMODE((etc / name).stat().st_mode) for name in made[0]}
    assert modes["keys/pgpass"] == modes["keys/server.key"] == modes["camera/token"] == 0o600
    assert modes["ca/ca.pem"] == modes["database/password"] == 0o444  # other users read these
    assert len(made[0]["database/password"]) >= 32
    assert made[0]["database/password"] != made[0]["grafana/password"]
    assert made[0]["database/password"] in made[0]["keys/pgpass"]


def test_a_certificate_that_ends_soon_is_renewed_at_the_next_start(tmp_path: Path) -> None:
    from cloud_server.auth.development_ca import make_development_ca

    etc = tmp_path / "etc"
    for folder in ("ca", "database", "grafana"):
        (etc / folder).mkdir(parents=True)
    make_development_ca(etc / "keys", names=["cloud"], days=29)
    before = {path.name: path.read_bytes() for path in (etc / "keys").iterdir()}
    machine = Machine(
        tmp_path, {"/etc/featherwire": str(etc), "/usr/local/lib/featherwire": str(tmp_path)}
    )
    machine.copy(DEPLOY / "compose" / "secrets.sh")
    assert machine.run(SERVICES["secrets"], [CLOUD]) == 0, (tmp_path / "log").read_text()
    renewed = {name for name, was in before.items() if (etc / "keys" / name).read_bytes() != was}
    assert renewed == {"server.pem", "server.key", "client.pem", "client.key"}
    assert (etc / "ca" / "ca.pem").read_bytes() == before["ca.pem"]
