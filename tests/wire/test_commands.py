"""`featherwire-cloud serve` and `featherwire-edge send` as people and scripts run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cloud_server.decoding import BitstreamDecoder
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from tests.support.pictures import same_picture

from .conftest import ROOT, server_process


def run(package: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    code = f"from {package}.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, env=environment, timeout=90,
    )  # fmt: skip


def test_send_prints_json_and_saves_pictures(
    server: str, tiny_bundle: Bundle, encoder: EdgeEncoder, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    photos = []
    for name in ("one", "two"):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        photos.append(str(tmp_path / f"{name}.png"))
    encoded = tmp_path / "three.fwf"
    encoded.write_bytes(encoder.encode(image).to_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    output = tmp_path / "out"
    done = run(
        "edge_client", "send", *photos, str(tmp_path / "broken.jpg"), str(encoded),
        "--server", server, "--bundle", tiny_bundle.origin, "--state", "2", "--picture",
        "-o", str(output), "--json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert [Path(r["photo"]).name for r in report["results"]] == ["one.png", "two.png", "three.fwf"]
    assert [Path(f["file"]).name for f in report["failures"]] == ["broken.jpg"]
    expected = BitstreamDecoder(tiny_bundle).picture(encoder.encode(image, state=2))
    for record in report["results"]:
        assert record["state"] == 2
        assert record["analysis"]["bundle_id"] == tiny_bundle.id
        assert same_picture(np.asarray(Image.open(record["picture"])), expected)
        assert json.loads(Path(record["file"]).read_text())["sequence"] == record["sequence"]


def test_send_prints_a_table_for_people(
    server: str, tiny_bundle: Bundle, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(image).save(tmp_path / "one.png")
    done = run(
        "edge_client", "send", str(tmp_path / "one.png"),
        "--server", server, "--bundle", tiny_bundle.origin, "--bpp", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bits/pixel" in done.stdout


def test_exit_codes_tell_scripts_what_went_wrong(
    server: str, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    photo = tmp_path / "one.png"
    Image.fromarray(image).save(photo)
    unreachable = run(
        "edge_client", "send", str(photo), "--server", "127.0.0.1:1", "--timeout", "0.5", "--json"
    )
    assert unreachable.returncode == 4
    assert json.loads(unreachable.stdout)["error"]["reason"] == "unreachable"
    usage = run("edge_client", "send", str(photo), "--server", server, "--picture")
    assert usage.returncode == 2
    missing = run(
        "edge_client", "send", str(photo), "--server", server, "--bundle", str(tmp_path / "gone")
    )
    assert missing.returncode == 3


def test_serve_refuses_what_it_cannot_do(tmp_path: Path, server: str, tiny_bundle: Bundle) -> None:
    assert run("cloud_server", "serve", "--listen", "nowhere").returncode == 2
    gone = run("cloud_server", "serve", "--bundle", str(tmp_path / "gone"), "--tasks", "none")
    assert gone.returncode == 3
    taken = run(
        "cloud_server", "serve", "--bundle", tiny_bundle.origin, "--tasks", "none",
        "--listen", server,
    )  # fmt: skip
    assert taken.returncode == 1
    assert "cannot listen" in taken.stderr


def test_serve_starts_without_weights_and_says_how_to_get_them(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    previous = os.environ.get("FEATHERWIRE_MODELS")
    os.environ["FEATHERWIRE_MODELS"] = str(tmp_path / "no-models")
    try:
        with server_process("--bundle", tiny_bundle.origin, log=log) as (process, ready):
            assert ready["tasks"] == []
            assert set(ready["unavailable"]) == {"detection", "segmentation", "landmarks"}
            for error in ready["unavailable"].values():
                assert error["command"].startswith("featherwire-cloud models fetch ")
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
    finally:
        if previous is None:
            del os.environ["FEATHERWIRE_MODELS"]
        else:
            os.environ["FEATHERWIRE_MODELS"] = previous
    events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    named = {event["task"] for event in events if event["event"] == "task_unavailable"}
    assert named == {"detection", "segmentation", "landmarks"}
