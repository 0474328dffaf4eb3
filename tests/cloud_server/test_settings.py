"""File, environment, flags: the later one wins, and what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_server.serve.settings import ServerSettings
from shared.errors import FeatherwireError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "server.yaml"
    path.write_text("listen: 0.0.0.0:1000\ncredits: 3\nmax_batch: 2\ntasks: [detection]\n")
    return path


def test_flags_win_over_variables_and_variables_over_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATHERWIRE_CREDITS", "4")
    monkeypatch.setenv("FEATHERWIRE_MAX_BATCH", "5")
    settings = ServerSettings.load(config, max_batch=6, device=None)
    assert (settings.listen, settings.credits, settings.max_batch) == ("0.0.0.0:1000", 4, 6)
    assert settings.tasks == ("detection",)
    assert settings.device == "cpu"  # a flag that was not given changes nothing


def test_a_variable_names_the_file_and_lists_are_comma_separated(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATHERWIRE_CONFIG", str(config))
    assert ServerSettings.load().credits == 3
    monkeypatch.setenv("FEATHERWIRE_TASKS", "segmentation, landmarks")
    assert ServerSettings.load().tasks == ("segmentation", "landmarks")
    monkeypatch.setenv("FEATHERWIRE_TASKS", "none")
    assert ServerSettings.load().tasks == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("credits: 0", "credits"),
        ("credits: many", "credits"),
        ("creditz: 3", "creditz"),
        ("listen: nowhere", "HOST:PORT"),
        ("listen: host:99999", "HOST:PORT"),
        ("tls_key: key.pem", "belong together"),
        ("tls_client_ca: ca.pem", "needs tls_certificate"),
        ("credits: [", ""),
        ("- a list", ""),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(FeatherwireError) as caught:
        ServerSettings.load(path)
    assert caught.value.reason == "invalid_settings"
    assert complaint in caught.value.message


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("credits: 3\ndatta: x\n", 2, "unknown setting 'datta'; did you mean 'data'?"),
        ("tls-certificate: x", 1, "did you mean 'tls_certificate'?"),
        ("Qqqqqqqq: 1", 1, "unknown setting 'Qqqqqqqq'"),
        ("credits: 3\n\nlisten: nowhere", 3, "listen: is HOST:PORT"),
        ("# said\nCredits: many", 2, "credits: "),
        ("credits: 3\ntasks: [detection\nlisten: x:1\n", 3, "is no valid YAML: "),
        ("credits: 3\n\tlisten: x:1\n", 2, "is no valid YAML: "),
        ("credits: 3\n1: x\n", 2, "unknown setting '1'"),
        ("credits: 3\n[a]: x\n", 2, "unhashable"),
        ("credits: !!python/name:os.system 1", 1, "is no valid YAML: "),
        ("- credits: 3", None, "`name: value`"),
        ("credits", None, "`name: value`"),
        ("credits: \x00", None, "is no valid YAML: "),
        ("credits: \udcff", None, "is no text in UTF-8"),
        ("tls_key: key.pem", None, "belong together"),
        ("tls_key: gone.pem\ntls_certificate: there.pem", None, ".pem"),
        ("engine: process", None, "needs `workers`"),
    ],
)
def test_what_is_wrong_in_a_file_names_the_file_and_the_line(
    tmp_path: Path, text: str, line: int | None, words: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(FeatherwireError) as caught:
        ServerSettings.load(path)
    assert caught.value.reason == "invalid_settings"
    assert caught.value.message.startswith(
        f"{path}: " if line is None else f"{path}, line {line}: "
    )
    assert words in caught.value.message


def test_what_is_wrong_elsewhere_does_not_name_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each complaint says what has set it: a variable, a flag by its name alone, or the file."""
    with pytest.raises(FeatherwireError) as caught:
        ServerSettings.load(config, listen="nowhere")
    assert caught.value.message.startswith("listen: ")
    with pytest.raises(FeatherwireError) as caught:
        ServerSettings.load(config, engine="process")
    assert str(config) not in caught.value.message
    monkeypatch.setenv("FEATHERWIRE_CREDITS", "many")
    with pytest.raises(FeatherwireError) as caught:
        ServerSettings.load(config)
    assert caught.value.message.startswith("FEATHERWIRE_CREDITS: credits: ")


def test_empty_variables_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose's ``${X:-}`` gives them for every setting that nobody has set."""
    defaults = ServerSettings.load(insecure=True).model_dump()
    for name in ServerSettings.model_fields:
        monkeypatch.setenv(f"FEATHERWIRE_{name.upper()}", "")
    monkeypatch.setenv("FEATHERWIRE_CONFIG", " ")
    assert ServerSettings.load(insecure=True).model_dump() == defaults


def test_a_config_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FeatherwireError, match="no config file"):
        ServerSettings.load(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    "wrong",
    [
        {"engine": "process"},
        {"engine": "ray", "workers": 2},
        {"ray_min_replicas": 5},
        {"ray_target_ongoing": 9},
        {"shared_log": True},
    ],
)
def test_what_does_not_go_together_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(FeatherwireError) as caught:
        ServerSettings.load(None, **wrong)
    assert caught.value.reason == "invalid_settings"
