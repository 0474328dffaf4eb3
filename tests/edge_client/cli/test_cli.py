"""featherwire-edge encode, inspect, truncate: what scripts see, and what fails how."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edge_client.cli import build_app
from shared.bitstream import Bitstream
from shared.bundle import Bundle, packaged_names
from shared.cli import ExitCode
from tests.support.tiny_bundle import make_tiny_bundle, with_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_bundle(folder)
    return str(folder)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


def run_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_hundreds_of_photos_in_one_process(
    bundle: str, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    from PIL import Image

    paths = []
    for number in range(200):
        paths.append(tmp_path / f"{number}.png")
        crop = photos["coffee"][number : number + 40, number : number + 50]
        Image.fromarray(crop).save(paths[-1])
    document = run_json("encode", *paths, "-o", tmp_path / "out", "--bundle", bundle)
    assert len(document["results"]) == 200
    assert document["failures"] == []
    for record in document["results"]:
        data = Path(record["file"]).read_bytes()
        assert len(data) == record["bytes"]
        assert Bitstream.from_bytes(data).state == record["state"] == 0


def test_bad_files_do_not_stop_good_ones(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    result = run(
        "encode", tmp_path / "broken.jpg", photo_files["chelsea"], tmp_path / "missing.png",
        "-o", tmp_path, "--bundle", bundle, "--json",
    )  # fmt: skip
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [Path(r["file"]).name for r in document["results"]] == ["chelsea.fwf"]
    assert {f["error"] for f in document["failures"]} == {"PhotoError"}
    assert [Path(f["file"]).name for f in document["failures"]] == ["broken.jpg", "missing.png"]
    assert "Traceback" not in result.output


def test_two_photos_of_one_name_do_not_overwrite_each_other(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    other = tmp_path / "chelsea.png"
    other.write_bytes(photo_files["coffee"].read_bytes())
    result = run(
        "encode", photo_files["chelsea"], other, "-o", tmp_path, "--bundle", bundle, "--json"
    )
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [f["reason"] for f in document["failures"]] == ["duplicate_output"]
    assert len(document["results"]) == 1


def test_rates_reach_the_files(bundle: str, tmp_path: Path, photo_files: dict[str, Path]) -> None:
    def one(*rate: object) -> dict[str, Any]:
        arguments = ("encode", photo_files["astronaut"], "-o", tmp_path, "--bundle", bundle)
        record: dict[str, Any] = run_json(*arguments, *rate)["results"][0]
        return record

    assert one("--state", 3)["state"] == 3
    assert one("--bytes", 1000)["bytes"] <= 1000
    assert one("--bpp", 0.05)["bits_per_pixel"] <= 0.05
    too_small = run(
        "encode", photo_files["astronaut"], "-o", tmp_path, "--bytes", 10, "--bundle", bundle
    )
    assert too_small.exit_code == 1
    assert "budget_too_small" in too_small.stderr


def test_inspect_lists_every_state_and_truncate_makes_it(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    run("encode", photo_files["flower"], "-o", tmp_path, "--bundle", bundle)
    whole = tmp_path / "flower.fwf"
    record = run_json("inspect", whole)["results"][0]
    assert [row["state"] for row in record["states"]] == [4, 3, 2, 1, 0]
    assert record["states"][-1]["bytes"] == record["bytes"] == whole.stat().st_size
    for row in record["states"]:
        state = row["state"]
        target = tmp_path / "coarser"
        made = run_json("truncate", whole, "--state", state, "-o", target)["results"][0]
        encoded = tmp_path / "again"
        run("encode", photo_files["flower"], "-o", encoded, "--state", state, "--bundle", bundle)
        assert Path(made["file"]).read_bytes() == (encoded / "flower.fwf").read_bytes()
        assert made["bytes"] == row["bytes"]
    absent = run("truncate", tmp_path / "coarser" / "flower.fwf", "--state", 9, "-o", tmp_path)
    assert absent.exit_code == 1


def test_truncating_to_a_budget_is_encoding_within_it(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    photo = photo_files["flower"]
    run("encode", photo, "-o", tmp_path, "--bundle", bundle)
    whole = tmp_path / "flower.fwf"
    states = run_json("inspect", whole)["results"][0]["states"]
    budget = (states[-1]["bytes"] + states[-2]["bytes"]) // 2
    target, again = tmp_path / "shorter", tmp_path / "again"
    made = run_json("truncate", whole, "--bytes", budget, "-o", target, "--bundle", bundle)
    record = made["results"][0]
    assert (record["state"], record["bytes"] <= budget) == (1, True)
    assert 0 < record["passes"] < 4
    one = run_json("encode", photo, "-o", again, "--bytes", budget, "--bundle", bundle)
    assert one["results"][0]["passes"] == record["passes"]
    assert (target / "flower.fwf").read_bytes() == (again / "flower.fwf").read_bytes()
    # Dropping the part of a layer leaves the state before it.
    run("truncate", target / "flower.fwf", "--state", 1, "-o", tmp_path / "one")
    run("truncate", whole, "--state", 1, "-o", tmp_path / "other")
    assert (tmp_path / "one/flower.fwf").read_bytes() == (
        tmp_path / "other/flower.fwf"
    ).read_bytes()
    shown = run_json("inspect", target / "flower.fwf")["results"][0]
    partial = {"state": 0, "passes": record["passes"], "of_passes": None, "bytes": record["bytes"]}
    assert shown["partial"] == partial
    assert shown["bytes"] == shown["complete_bytes"] == record["bytes"]
    assert f"({record['passes']} passes)" in shown["states_text"]
    by_rate = run_json("truncate", whole, "--bpp", 0.05, "-o", target, "--bundle", bundle)
    assert by_rate["results"][0]["bits_per_pixel"] <= 0.05


def test_truncate_wants_one_target_and_the_files_own_bundle(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    run("encode", photo_files["flower"], "-o", tmp_path, "--bundle", bundle)
    file, out = tmp_path / "flower.fwf", tmp_path / "out"
    assert run("truncate", file, "-o", out).exit_code == 2
    assert run("truncate", file, "-o", out, "--state", 1, "--bytes", 500).exit_code == 2
    small = run("truncate", file, "-o", out, "--bytes", 10, "--bundle", bundle)
    assert (small.exit_code, "budget_too_small" in small.stderr) == (1, True)
    data = bytearray(file.read_bytes())
    foreign = Bitstream.from_bytes(bytes(data))
    (tmp_path / "foreign.fwf").write_bytes(
        dataclasses.replace(foreign, bundle_id=b"otherone").to_bytes()
    )
    result = run(
        "truncate",
        tmp_path / "foreign.fwf",
        "-o",
        out,
        "--bytes",
        900,
        "--bundle",
        bundle,
        "--json",
    )
    failure = json.loads(result.stdout)["failures"][0]
    assert failure["reason"] == "wrong_bundle"
    assert b"othe".hex() in failure["message"]  # a file has half of the short id
    assert "encode the photo again" in failure["message"]


def test_psnr_and_lambda_reach_the_files(
    tmp_path: Path, bundle: str, photo_files: dict[str, Path]
) -> None:
    made = with_model(Bundle.load(bundle), tmp_path / "bundle").origin
    photo = photo_files["astronaut"]

    def one(*options: object) -> dict[str, Any]:
        arguments = ("encode", photo, "-o", tmp_path, "--bundle", made, *options)
        record: dict[str, Any] = run_json(*arguments)["results"][0]
        return record

    sizes = [one("--psnr", level)["bytes"] for level in (20, 22, 23, 24)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert one("--psnr", 90, "--best-effort")["state"] == 0
    refused = run("encode", photo, "-o", tmp_path, "--bundle", made, "--psnr", 90)
    assert (refused.exit_code, "target_unreachable" in refused.stderr) == (1, True)
    plain = run("encode", photo, "-o", tmp_path, "--bundle", bundle, "--psnr", 20)
    assert (plain.exit_code, "no_psnr_model" in plain.stderr) == (2, True)
    assert one("--lambda", 0.5)["bytes"] < one()["bytes"]
    assert run("encode", photo, "-o", tmp_path, "--lambda", -1).exit_code == 2


def test_inspect_marks_a_cut_file_and_refuses_a_damaged_one(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    run("encode", photo_files["flower"], "-o", tmp_path, "--bundle", bundle)
    data = (tmp_path / "flower.fwf").read_bytes()
    (tmp_path / "cut.fwf").write_bytes(data[:-5])
    (tmp_path / "damaged.fwf").write_bytes(data[:-5] + b"\0\0\0\0\0")
    result = run("inspect", tmp_path / "cut.fwf", tmp_path / "damaged.fwf", "--json")
    document = json.loads(result.stdout)
    assert document["results"][0]["cut"]["reason"] == "truncated"
    assert document["results"][0]["states"][-1]["state"] == 1
    assert document["failures"][0]["reason"] == "crc_mismatch"
    assert result.exit_code == 1


def test_exit_codes_tell_usage_from_missing_bundles(
    tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    photo = photo_files["flower"]
    assert run("encode", photo).exit_code == 2
    assert run("encode", photo, "-o", tmp_path, "--state", "x").exit_code == 2
    assert run("nonsense").exit_code == 2
    missing = run("encode", photo, "-o", tmp_path, "--bundle", tmp_path / "none", "--json")
    assert missing.exit_code == 3
    assert json.loads(missing.stdout)["error"]["reason"] == "not_found"


def test_contradicting_rates_and_unknown_states_are_wrong_usage(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    arguments = ("encode", photo_files["flower"], "-o", tmp_path, "--bundle", bundle)
    assert run(*arguments, "--state", 1, "--bpp", 0.1).exit_code == 2
    assert run(*arguments, "--state", 99).exit_code == 2


def test_files_go_from_one_format_to_the_other_and_say_which_they_have(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    run("encode", photo_files["flower"], "-o", tmp_path, "--bundle", bundle)
    file = tmp_path / "flower.fwf"
    old, both, again = tmp_path / "old", tmp_path / "both", tmp_path / "again"
    run("truncate", file, "-o", old, "--format", 3, "--bundle", bundle)
    run("truncate", file, "-o", both, "--format", 3, "--state", 4, "--bundle", bundle)
    run("truncate", old / file.name, "-o", again, "--format", 4, "--bundle", bundle)
    assert (again / file.name).read_bytes() == file.read_bytes()
    shown = run_json("inspect", file, old / file.name)["results"]
    assert [record["format"] for record in shown] == [4, 3]
    assert [record["state"] for record in shown[0]["states"]] == [
        record["state"] for record in shown[1]["states"]
    ]
    # A file of format 3 is cut as such, without its bundle.
    run("truncate", old / file.name, "-o", tmp_path / "cut", "--state", 4)
    assert (tmp_path / "cut" / file.name).read_bytes() == (both / file.name).read_bytes()
    unknown = run("truncate", file, "-o", old, "--format", 5, "--json")
    assert unknown.exit_code == 1
    assert "there are 3 and 4" in unknown.stdout


def test_truncate_never_overwrites_its_source(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    run("encode", photo_files["flower"], "-o", tmp_path, "--bundle", bundle)
    before = (tmp_path / "flower.fwf").read_bytes()
    result = run("truncate", tmp_path / "flower.fwf", "--state", 3, "-o", tmp_path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failures"][0]["reason"] == "same_file"
    assert (tmp_path / "flower.fwf").read_bytes() == before


def test_pipes_folders_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.fwf")
    result = run("inspect", tmp_path / "pipe.fwf", tmp_path, "/dev/zero", tmp_path / "no", "--json")
    reasons = [failure["reason"] for failure in json.loads(result.stdout)["failures"]]
    assert reasons == ["not_a_file", "not_a_file", "not_a_file", "not_found"]


def test_version_is_printed() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.strip()


def test_people_get_a_table_with_whole_names(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    photo = tmp_path / f"{'a-long-name-' * 9}[red].png"
    photo.write_bytes(photo_files["flower"].read_bytes())
    made, shorter = tmp_path / f"{photo.stem}.fwf", tmp_path / "shorter"
    for words, shown in (
        (("encode", photo, "-o", tmp_path, "--bundle", bundle), (photo, made, "bits/pixel")),
        (("inspect", made), (made, "state:bytes")),
        (("truncate", made, "--state", 2, "-o", shorter), (shorter / made.name, "passes")),
    ):
        result = run(*words)
        assert result.exit_code == 0
        for text in shown:
            assert str(text) in result.stdout, words[0]


def test_inspect_warns_of_a_file_that_the_packaged_bundle_cannot_decode(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    run("encode", photo_files["flower"], "-o", tmp_path, "--bundle", bundle)
    foreign = tmp_path / "flower.fwf"
    wanted, packaged = Bundle.load(bundle).short_id, Bundle.load().short_id
    own = dataclasses.replace(Bitstream.from_bytes(foreign.read_bytes()), bundle_id=packaged)
    (tmp_path / "own.fwf").write_bytes(own.to_bytes())
    result = run("inspect", foreign, tmp_path / "own.fwf", "--json")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: {foreign}: made with bundle {wanted[:4].hex()},")
    assert all(name in line for name in packaged_names())
    told = [record["warning"] for record in json.loads(result.stdout)["results"]]
    assert told == [line.removeprefix(f"warning: {foreign}: "), None]


@pytest.mark.parametrize(
    ("command", "option", "meaning", "least"),
    [
        ("encode", "--bpp", "bits per pixel", "0"),
        ("encode", "--psnr", "a PSNR in decibels", "0"),
        ("encode", "--lambda", "the squared error that one bit is worth", "0"),
        ("truncate", "--bpp", "bits per pixel", "0"),
        ("send", "--timeout", "seconds to wait", "0.1"),
        ("send", "--deadline", "seconds for a frame", "0.1"),
    ],
)
def test_what_is_no_finite_number_is_wrong_usage_in_words(
    command: str, option: str, meaning: str, least: str, tmp_path: Path
) -> None:
    where = ("--server", "127.0.0.1:1") if command == "send" else ("-o", tmp_path)
    for number, wrong in (
        ("nan", "a finite number"),
        ("inf", "a finite number"),
        ("-inf", "a finite number"),
        ("much", "a finite number"),
        ("-1", f"at least {least}"),
    ):
        result = run(command, tmp_path / "none.fwf", *where, option, number)
        assert result.exit_code == 2
        said = " ".join(result.stderr.replace("│", " ").split())
        assert f"{meaning} must be {wrong}, not {number}" in said


def test_help_lists_every_exit_status() -> None:
    said = run("--help").stdout.partition("Exit status:")[2].partition("╭")[0]
    assert [int(word) for word in said.split() if word.isdigit()] == list(ExitCode)


@pytest.mark.parametrize("words", [["--help"], ["encode", "--help"], ["send", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['featherwire-edge', *sys.argv[1:]]\n"
        "from edge_client.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'onnxruntime', 'grpc', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_a_photo_that_fails_leaves_its_name_to_the_next(
    bundle: str, tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    empty = tmp_path / "empty" / photo_files["flower"].name
    empty.parent.mkdir()
    empty.touch()
    out = tmp_path / "out"
    result = run("encode", empty, photo_files["flower"], "-o", out, "--bundle", bundle, "--json")
    assert result.exit_code == 1
    (failure,) = json.loads(result.stdout)["failures"]
    assert failure["file"] == str(empty)
    assert (out / "flower.fwf").exists()


def test_files_of_every_packaged_bundle_are_known(
    tmp_path: Path, photo_files: dict[str, Path]
) -> None:
    for name in packaged_names():
        folder = tmp_path / name
        coarsest = Bundle.load(name).manifest.coarsest_state
        run("encode", photo_files["flower"], "-o", folder, "--bundle", name, "--state", coarsest)
        (record,) = json.loads(run("inspect", folder / "flower.fwf", "--json").stdout)["results"]
        known = Bundle.load(name).manifest.name
        assert (record["bundle_name"], record["warning"]) == (known, None)
        size = record["bytes"]
        cut = run("truncate", folder / "flower.fwf", "-o", tmp_path / "cut", "--bytes", size)
        assert cut.exit_code == 0, cut.output
