"""`featherwire-cloud serve` and `featherwire-edge send` as people and scripts run them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cloud_server.engine.files import BitstreamDecoder
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from tests.support.commands import run, run_process
from tests.support.pictures import same_picture
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]


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
    done = run_process(
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
    photo = tmp_path / f"{'a-long-name-' * 9}.png"
    Image.fromarray(image).save(photo)
    done = run(
        "edge_client", "send", str(photo),
        "--server", server, "--bundle", tiny_bundle.origin, "--bpp", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bits/pixel" in done.stdout
    assert str(photo) in done.stdout


def test_send_shows_the_passes_of_a_partial_layer(
    server: str, tiny_bundle: Bundle, encoder: EdgeEncoder, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    sizes = encoder.encode(image).cumulative_bytes()
    budget = (sizes[0] + sizes[1]) // 2
    expected = encoder.encode(image, max_bytes=budget)
    assert expected.passes > 0
    Image.fromarray(image).save(tmp_path / "one.png")
    done = run(
        "edge_client", "send", str(tmp_path / "one.png"),
        "--server", server, "--bundle", tiny_bundle.origin, "--bytes", str(budget), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)["results"]
    assert (record["state"], record["passes"]) == (expected.state, expected.passes)
    assert record["bytes"] == expected.file_bytes


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
    gone = run(
        "cloud_server", "serve", "--insecure", "--bundle", str(tmp_path / "gone"), "--tasks", "none"
    )
    assert gone.returncode == 3
    taken = run_process(
        "cloud_server", "serve", "--insecure", "--bundle", tiny_bundle.origin, "--tasks", "none",
        "--listen", server,
    )  # fmt: skip
    assert taken.returncode == 1
    assert "cannot listen" in taken.stderr


def test_serve_says_wrong_usage_in_a_line(tmp_path: Path, tiny_bundle: Bundle) -> None:
    gone = ("--tls-cert", str(tmp_path / "gone.pem"), "--tls-key", str(tmp_path / "gone.key"))
    for arguments, said in (
        (("--tasks", "bogus"), "known are detection"),
        (("--tasks", "none", "--device", "banana"), "device 'banana' cannot be used"),
        (("--tasks", "none", *gone), "gone.pem: No such file"),
    ):
        done = run(
            "cloud_server", "serve", "--insecure", "--bundle", tiny_bundle.origin, *arguments
        )
        assert done.returncode == 2, (arguments, done.stderr)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_serve_does_not_start_without_the_weights_that_were_named(tiny_bundle: Bundle) -> None:
    done = run(
        "cloud_server", "serve", "--insecure", "--bundle", tiny_bundle.origin,
        "--listen", "127.0.0.1:0",
        "--tasks", "detection", "--detector", "nosuch.pt",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


def test_serve_without_any_weights_says_how_to_get_them(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    done = run(
        "cloud_server", "serve", "--insecure", "--bundle", tiny_bundle.origin,
        "--listen", "127.0.0.1:0",
        "--json", FEATHERWIRE_MODELS=str(tmp_path / "no-models"),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["command"] == "featherwire-cloud models fetch"
    assert "get it with: featherwire-cloud models fetch" in done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    named = {event["task"] for event in events if event["event"] == "task_unavailable"}
    assert named == {"detection", "segmentation", "landmarks"}


def test_send_refuses_wrong_usage_before_it_connects(
    image: NDArray[np.uint8], tmp_path: Path
) -> None:
    photo = tmp_path / "one.png"
    Image.fromarray(image).save(photo)
    pem = tmp_path / "k.pem"
    pem.write_text("no key")
    here = ("--server", "127.0.0.1:1")
    for arguments, said in (
        ((*here, "--tls-key", str(pem)), "belong together"),
        ((*here, "--tls-ca", str(tmp_path / "gone.pem")), "No such file"),
        ((*here, "--tls-ca", str(pem)), "PEM"),
        ((*here, "--tls-cert", str(pem), "--tls-key", str(pem)), "PEM"),
        (("--server", "127.0.0.1"), "HOST:PORT"),
        (("--server", "127.0.0.1:99999"), "HOST:PORT"),
        ((*here, "--tasks", "No!"), "snake_case"),
    ):
        done = run("edge_client", "send", str(photo), *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_send_refuses_a_task_that_the_server_does_not_know(
    start_server: Start, tiny_bundle: Bundle, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    server = start_server({"calm": lambda: FixedTask("calm")})
    Image.fromarray(image).save(tmp_path / "one.png")
    done = run(
        "edge_client", "send", str(tmp_path / "one.png"), "--server", server.address,
        "--bundle", tiny_bundle.origin, "--tasks", "bogus",
    )  # fmt: skip
    assert done.returncode == 2
    assert "it has calm" in done.stderr


def test_a_task_that_failed_is_in_the_record_of_its_photo(
    start_server: Start, tiny_bundle: Bundle, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    server = start_server(
        {"picky": lambda: FixedTask("picky", fails_at_width=160), "calm": lambda: FixedTask("calm")}
    )
    Image.fromarray(image).save(tmp_path / "one.png")
    done = run_process(
        "edge_client", "send", str(tmp_path / "one.png"), "--server", server.address,
        "--bundle", tiny_bundle.origin, "--json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["failures"] == []
    (record,) = report["results"]
    assert set(record["analysis"]["tasks"]) == {"calm"}
    assert record["task_errors"]["picky"]["reason"] == "internal_error"


def test_a_frame_past_the_clients_deadline_fails_alone(
    start_server: Start, tiny_bundle: Bundle, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    class SlowOnNarrow(FixedTask):
        def run(self, images: Any) -> Any:
            if images[0].shape[1] == 64:
                time.sleep(4)
            return super().run(images)

    server = start_server({"uneven": lambda: SlowOnNarrow("uneven")}, task_workers=2)
    Image.fromarray(image[:, :64]).save(tmp_path / "narrow.png")
    Image.fromarray(image).save(tmp_path / "wide.png")
    done = run_process(
        "edge_client", "send", str(tmp_path / "narrow.png"), str(tmp_path / "wide.png"),
        "--server", server.address, "--bundle", tiny_bundle.origin, "--deadline", "2", "--json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert [Path(r["photo"]).name for r in report["results"]] == ["wide.png"]
    (failure,) = report["failures"]
    assert Path(failure["file"]).name == "narrow.png"
    assert failure["reason"] == "deadline_exceeded"


def test_what_came_back_is_kept_when_the_server_stops(
    start_server: Start, tiny_bundle: Bundle, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    server = start_server({"slow": lambda: FixedTask("slow", 0.2)})
    photos = []
    for number in range(40):
        photos.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(photos[-1])

    def stop_later() -> None:
        while not (tmp_path / "out").is_dir():
            time.sleep(0.01)
        server.stop()

    watcher = threading.Thread(target=stop_later, daemon=True)
    watcher.start()
    done = run_process(
        "edge_client", "send", *map(str, photos), "--server", server.address,
        "--bundle", tiny_bundle.origin, "-o", str(tmp_path / "out"), "--json",
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    report = json.loads(done.stdout)
    kept = [record["photo"] for record in report["results"]]
    lost = [failure["file"] for failure in report["failures"]]
    assert kept
    assert lost
    assert sorted(kept + lost) == sorted(map(str, photos))
    assert {failure["reason"] for failure in report["failures"]} == {"draining"}


def test_a_cut_file_is_sent_at_the_state_that_is_complete(
    server: str, tiny_bundle: Bundle, encoder: EdgeEncoder, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.fwf"
    cut.write_bytes(encoder.encode(image).to_bytes()[:-1])
    done = run_process(
        "edge_client", "send", str(cut), "--server", server, "--bundle", tiny_bundle.origin,
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["state"] == 1
    assert "is cut; its state 1" in done.stderr


def test_send_says_when_tls_is_what_fails(
    server: str, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(image).save(tmp_path / "one.png")
    done = run_process(
        "edge_client", "send", str(tmp_path / "one.png"), "--server", server, "--tls",
        "--timeout", "1",
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.startswith("error: TLS failed with ")
    assert len(done.stderr.splitlines()) == 1  # gRPC's own lines are not among it
