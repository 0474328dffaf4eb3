"""`stream` sends groups of pictures: how long they are, what it says of them, and over a kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from shared.bundle import Bundle
from tests.support.brokers import Broker, why_not
from tests.support.mqtt import Listener, until
from tests.support.predicted import number_of, numbered, predicting_bundle
from tests.support.recorder import Recorder
from tests.support.servers import ServerThread, settings_of
from tests.support.streaming_edge import EDGE, run, streaming

PICTURES = 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return predicting_bundle(tmp_path_factory.mktemp("null"))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(number_of)


@pytest.fixture
def server(bundle: Bundle, recorder: Recorder, tmp_path: Path) -> Iterator[ServerThread]:
    server = ServerThread(settings_of(bundle, tmp_path / "data"), {"record": lambda: recorder})
    yield server
    server.stop()


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number:03}.png" for number in range(1, PICTURES + 1)]
    for number, path in enumerate(found, 1):
        Image.fromarray(numbered(number)).save(path)
    return found


@pytest.mark.parametrize(
    ("options", "keys"), [((), 1), (("--key-every", "5"), 3), (("--no-predict",), PICTURES)]
)
def test_stream_says_how_many_frames_stand_alone(
    server: ServerThread,
    recorder: Recorder,
    photos: list[Path],
    options: tuple[str, ...],
    keys: int,
) -> None:
    to = ("--server", server.address, *options)
    with streaming(*photos, *to) as stream:
        status, end = stream.end(None)
    assert (status, end["results"]) == (0, PICTURES)
    assert (end["key_frames"], end["predicted_frames"]) == (keys, PICTURES - keys)
    assert recorder.numbers == list(range(1, PICTURES + 1))


def test_the_last_line_tells_key_frames_from_predicted_ones(
    server: ServerThread, photos: list[Path]
) -> None:
    ended = run(EDGE, "stream", *photos, "--server", server.address)
    assert ended.returncode == 0, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last == "ended: 12 frames (1 key frame, 11 predicted), 12 results"


def test_what_is_no_length_of_a_group_is_wrong_usage(photos: list[Path]) -> None:
    ended = run(EDGE, "stream", photos[0], "--server", "127.0.0.1:9", "--key-every", "often")
    assert ended.returncode == 2
    assert "250 or 10s" in ended.stderr


def test_a_stream_that_is_killed_in_a_group_goes_on_with_a_key_frame(
    server: ServerThread, recorder: Recorder, photos: list[Path], bundle: Bundle, tmp_path: Path
) -> None:
    spool = ("--spool", tmp_path / "spool", "--timeout", 1, "--bundle", bundle.origin)
    nowhere = "127.0.0.1:9"
    with streaming(*photos[:6], "--server", nowhere, *spool, "--loop", "--fps", 20) as stream:
        stream.until(lambda: stream.statuses and stream.statuses[-1]["queue"]["frames"] >= 6)
        stream.process.send_signal(signal.SIGKILL)
        stream.process.wait(10)
    with streaming(*photos[6:], "--server", server.address, *spool) as stream:
        status, end = stream.end(None)
    assert (status, end["key_frames"], end["predicted_frames"]) == (0, 1, 5)
    left = len(recorder.numbers) - 6
    assert left >= 6
    assert recorder.numbers[:left] == [1 + number % 6 for number in range(left)]
    assert recorder.numbers[left:] == list(range(7, 13))


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_results_of_predicted_frames_are_published_as_those_of_others(
    server: ServerThread, photos: list[Path], kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("paho.mqtt.client", reason="needs the extra mqtt")
    if (why := why_not(kind)) is not None:
        pytest.skip(why)
    still = [*photos, photos[-1], photos[-1]]  # the last is answered with what was found before
    broker = Broker(kind, tmp_path)
    broker.start()
    listener = Listener(broker.port)
    try:
        to = f"mqtt://127.0.0.1:{broker.port}/home"
        with streaming(*still, "--server", server.address, "--device", "cam", "--to", to) as stream:
            status, end = stream.end(None)
        assert (status, end["predicted_frames"]) == (0, len(still) - 1)
        (sink,) = end["sinks"].values()
        assert sink["delivered"] == len(still)
        assert until(lambda: len(listener.at("home/cam/result")) == len(still))
    finally:
        listener.close()
        broker.kill()
    published = [json.loads(one) for one in listener.at("home/cam/result")]
    assert [one["sequence"] for one in published] == list(range(1, len(still) + 1))
    told = {one["sequence"]: one for one in stream.results}
    for one in published:
        assert one["error"] is None
        assert one["analysis"] == told[one["sequence"]]["analysis"]
