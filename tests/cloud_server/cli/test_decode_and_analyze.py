"""featherwire-cloud decode and analyze: files in, pictures and results out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from cloud_server.cli import build_app
from codec import RateTarget, open_edge
from codec.base import small_bundle
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.cli import ExitCode
from shared.preprocess import load_photo
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def encoded(
    bundle: Bundle, photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("encoded")
    encoder = EdgeEncoder(bundle)
    for name in ("chelsea", "coffee"):
        (folder / f"{name}.fwf").write_bytes(encoder.encode(photos[name]).to_bytes())
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


def run_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_decode_writes_pictures_of_the_original_size(
    bundle: Bundle, encoded: Path, tmp_path: Path
) -> None:
    files = sorted(encoded.glob("*.fwf"))
    document = run_json("decode", *files, "-o", tmp_path, "--bundle", bundle.origin)
    sizes = {}
    for record in document["results"]:
        picture = Image.open(record["picture"])
        assert picture.size == (record["width"], record["height"])
        sizes[Path(record["picture"]).name] = picture.size
    assert sizes == {"chelsea.png": (451, 300), "coffee.png": (600, 400)}


def test_decoding_at_a_state_is_decoding_the_truncated_file(
    bundle: Bundle, encoded: Path, tmp_path: Path
) -> None:
    source = encoded / "chelsea.fwf"
    shorter = tmp_path / "chelsea.fwf"
    shorter.write_bytes(Bitstream.from_bytes(source.read_bytes()).truncate(3).to_bytes())
    for target, arguments in (("a", [source, "--state", 3]), ("b", [shorter])):
        run("decode", *arguments, "-o", tmp_path / target, "--bundle", bundle.origin)
    first, second = (np.asarray(Image.open(tmp_path / t / "chelsea.png")) for t in "ab")
    np.testing.assert_array_equal(first, second)


def test_a_decoder_is_chosen_by_name_and_one_that_is_not_there_is_an_error(
    photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    bundle = small_bundle("lapped-lattice", tmp_path, kind="streams")
    names = [one.name for one in bundle.manifest.pictures]
    assert names == ["faithful", "vivid"]
    source = tmp_path / "chelsea.fwf"
    source.write_bytes(open_edge(bundle).encode(photos["chelsea"]).to_bytes())
    where = ("--bundle", bundle.origin)
    pictures = {}
    for name in names:
        run("decode", source, "-o", tmp_path / name, "--decoder", name, *where)
        pictures[name] = np.asarray(Image.open(tmp_path / name / "chelsea.png"))
    plain = run("decode", source, "-o", tmp_path / "plain", *where)
    assert plain.exit_code == 0
    shown = np.asarray(Image.open(tmp_path / "plain" / "chelsea.png"))
    np.testing.assert_array_equal(shown, pictures["faithful"])
    assert (pictures["vivid"] != shown).any()
    refused = run("decode", source, "-o", tmp_path / "none", "--decoder", "oil-paint", *where)
    assert refused.exit_code == ExitCode.SOME_FAILED
    assert "unknown_decoder" in refused.stderr
    assert "faithful and vivid" in refused.stderr
    assert not list((tmp_path / "none").glob("*.png"))


def test_the_passes_of_a_partial_layer_are_shown(
    bundle: Bundle, encoded: Path, photo_files: dict[str, Path], tmp_path: Path
) -> None:
    whole = Bitstream.from_bytes((encoded / "chelsea.fwf").read_bytes())
    sizes = whole.cumulative_bytes()
    shorter = open_edge(bundle).shorten(whole, RateTarget(max_bytes=(sizes[0] + sizes[1]) // 2))
    path = tmp_path / "part-of-a-layer.fwf"
    path.write_bytes(shorter.to_bytes())
    assert shorter.passes > 0
    files = (path, encoded / "chelsea.fwf")
    where = ("--bundle", bundle.origin)
    decode = ("decode", *files, "-o", tmp_path / "out", *where)
    records = run_json(*decode)["results"]
    assert [(r["state"], r["passes"]) for r in records] == [(1, shorter.passes), (0, 0)]
    assert [r["bytes"] for r in records] == [shorter.file_bytes, whole.file_bytes]
    analyze = ("analyze", *files, photo_files["chelsea"], "--tasks", "none", *where)
    records = run_json(*analyze)["results"]
    shown = [(r["state"], r["passes"]) for r in records]
    assert shown == [(1, shorter.passes), (0, 0), (None, None)]
    for words in (decode, analyze):
        table = run(*words).stdout
        assert "passes" in table
        assert str(path) in table


def test_help_lists_every_exit_status() -> None:
    said = run("--help").stdout.partition("Exit status:")[2].partition("╭")[0]
    assert [int(word) for word in said.split() if word.isdigit()] == list(ExitCode)


def test_a_drain_deadline_that_is_no_number_is_wrong_usage_in_words() -> None:
    result = run("serve", "--drain-deadline", "nan")
    assert result.exit_code == 2
    assert "must be a finite number" in " ".join(result.stderr.replace("│", " ").split())


def test_damaged_files_give_no_picture_and_cut_ones_a_coarser_one(
    bundle: Bundle, encoded: Path, tmp_path: Path
) -> None:
    data = (encoded / "chelsea.fwf").read_bytes()
    (tmp_path / "cut.fwf").write_bytes(data[:-10])
    (tmp_path / "damaged.fwf").write_bytes(data[:-10] + bytes(10))
    (tmp_path / "empty.fwf").write_bytes(b"")
    files = sorted(tmp_path.glob("*.fwf"))
    out = tmp_path / "out"
    result = run("decode", *files, "-o", out, "--bundle", bundle.origin, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [path.name for path in out.iterdir()] == ["cut.png"]
    assert "complete" in document["results"][0]["warning"]
    assert {f["reason"] for f in document["failures"]} == {"crc_mismatch", "truncated"}


def test_another_bundles_file_is_refused_with_what_to_do(
    bundle: Bundle, encoded: Path, tmp_path: Path
) -> None:
    foreign = Bitstream.from_bytes((encoded / "coffee.fwf").read_bytes())
    path = tmp_path / "foreign.fwf"
    path.write_bytes(
        Bitstream(b"otherone", foreign.width, foreign.height, 0, foreign.layers).to_bytes()
    )
    result = run("decode", path, "-o", tmp_path / "out", "--bundle", bundle.origin)
    assert result.exit_code == 1
    assert "--bundle" in result.stderr
    assert not (tmp_path / "out").exists()


def test_analyze_takes_photos_and_features_alike(
    bundle: Bundle, encoded: Path, photo_files: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["analyze", photo_files["astronaut"], encoded / "chelsea.fwf"]
    arguments += ["--tasks", "landmarks", "--bundle", bundle.origin, "--annotate", tmp_path]
    photo, features = run_json(*arguments)["results"]
    assert len(photo["tasks"]["landmarks"]["faces"][0]["landmarks"]) == 468
    assert (photo["state"], photo["bundle_id"]) == (None, None)
    assert (features["state"], features["bundle_id"]) == (0, bundle.id)
    assert features["payload_bytes"] == (encoded / "chelsea.fwf").stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"astronaut.png", "chelsea.png"}


def test_a_photo_and_its_features_are_drawn_side_by_side(
    bundle: Bundle, encoded: Path, photo_files: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["analyze", encoded / "chelsea.fwf", photo_files["chelsea"], "--tasks", "landmarks"]
    document = run_json(*arguments, "--bundle", bundle.origin, "--annotate", tmp_path)
    names = [Path(record["annotated"]).name for record in document["results"]]
    assert names == ["chelsea.png", "chelsea.png.png"]
    assert document["failures"] == []


def test_a_photo_under_a_features_name_is_no_reference(
    bundle: Bundle, photo_files: dict[str, Path], tmp_path: Path
) -> None:
    fake = tmp_path / "fake.fwf"
    fake.write_bytes(photo_files["chelsea"].read_bytes())
    result = run("analyze", fake, "--tasks", "none", "--bundle", bundle.origin, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failures"][0]["reason"] == "bad_magic"


def test_a_device_that_is_not_there_is_wrong_usage(bundle: Bundle, encoded: Path) -> None:
    arguments = ("decode", encoded / "coffee.fwf", "-o", encoded, "--device", "banana")
    assert run(*arguments, "--bundle", bundle.origin).exit_code == 2


def test_unknown_tasks_and_missing_weights_are_told_apart(
    photo_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photo_files["astronaut"]
    unknown = run("analyze", photo, "--tasks", "poetry", "--json")
    assert unknown.exit_code == 2
    assert json.loads(unknown.stdout)["error"]["reason"] == "unknown_task"
    monkeypatch.setenv("FEATHERWIRE_MODELS", str(tmp_path / "empty"))
    missing = run("analyze", photo, "--tasks", "detection", "--json")
    assert missing.exit_code == 3
    assert "models fetch" in json.loads(missing.stdout)["error"]["command"]


def test_features_of_no_picture_are_drawn_into_their_photo(
    photo_files: dict[str, Path], tmp_path: Path
) -> None:
    found = tmp_path / "astronaut.fwf"
    encoder = EdgeEncoder(Bundle.load("detect"))
    found.write_bytes(encoder.encode(photo_files["astronaut"]).to_bytes())
    drawn = tmp_path / "drawn"
    arguments = ("analyze", found, "--annotate", drawn, "--json")
    without = json.loads(run(*arguments).stdout)
    assert without["failures"][0]["reason"] == "needs_picture"
    assert "--photo" in without["failures"][0]["message"]
    named = run_json(*arguments, "--photo", photo_files["astronaut"].parent)["results"]
    assert named[0]["tasks"]["detection"]["detections"]
    with Image.open(drawn / "astronaut.png") as picture:
        pixels = np.asarray(picture)
    photo = load_photo(photo_files["astronaut"])
    assert pixels.shape == photo.shape
    changed = (pixels != photo).any(axis=2).mean()
    assert 0 < changed < 0.5
    other = tmp_path / "other" / "astronaut.png"
    other.parent.mkdir()
    Image.new("RGB", (64, 48)).save(other)
    wrong = json.loads(run(*arguments, "--photo", other).stdout)
    assert wrong["failures"][0]["reason"] == "needs_picture"
    assert "64x48" in wrong["failures"][0]["message"]
