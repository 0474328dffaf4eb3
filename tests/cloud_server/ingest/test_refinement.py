"""What the server asks for after a doubtful result, and how a device answers."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from structlog.testing import capture_logs

from cloud_server.engine.files import BitstreamDecoder
from cloud_server.ingest.refinement import RefinePolicy
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from edge_client.session.refinement_store import Part, RefinementStore
from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.errors import FeatherwireError, PhotoError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2
from shared.targets import RateTarget
from shared.wire import PictureRequest
from shared.wire.requests import Refine, refine_message
from tests.support.commands import run
from tests.support.memory_server import MemoryServer
from tests.support.pictures import same_picture
from tests.support.raw_client import Client
from tests.support.servers import FixedTask, ServerThread, server_process

Start = Callable[..., ServerThread]
WANTED = PictureRequest()


def doubtful_score(bundle: Bundle, bitstream: Bitstream) -> float:
    """The best score in a bitstream's features, shown or not."""
    from codec.tails import open_tails

    decoder = BitstreamDecoder(bundle)
    tail = open_tails(bundle, score_threshold=0.0)["detection"]
    (result,) = tail.run([decoder.latents(bitstream)])
    return max(found.score for found in result.detections or ())


@pytest.fixture(scope="module")
def red() -> NDArray[np.uint8]:
    """uint8 96x160x3, all of it red: the tail is sure."""
    return np.full((96, 160, 3), (250, 10, 10), np.uint8)


@pytest.fixture(scope="module")
def grey() -> NDArray[np.uint8]:
    """uint8 96x160x3, all of it grey: the tail finds nothing, but for doubts."""
    return np.full((96, 160, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def band(feature_bundle: Bundle, feature_encoder: EdgeEncoder, grey: NDArray[np.uint8]) -> str:
    """LOW:HIGH around the grey picture's best score, far below what results show."""
    score = doubtful_score(feature_bundle, feature_encoder.encode(grey))
    assert 0.02 < score < 0.4
    return f"{score - 0.02:.3f}:{score + 0.05:.3f}"


@pytest.fixture
def asking(start_server: Start, tiny_bundle: Bundle, feature_bundle: Bundle, band: str) -> Any:
    """Starts servers that take features first, and ask for the picture in doubt."""

    def start(**settings: Any) -> ServerThread:
        defaults: dict[str, Any] = {
            "bundle": feature_bundle.origin,
            "bundles": (tiny_bundle.origin,),
            "refine_band": band,
            "refine_bundle": "tiny",
            "refine_state": 3,
        }
        return start_server({"calm": lambda: FixedTask("calm")}, **(defaults | settings))

    return start


# -- the server ----------------------------------------------------------------------------------


@pytest.fixture
def asking_in_memory(
    start_in_memory: Callable[..., MemoryServer], tiny_bundle: Bundle, feature_bundle: Bundle,
    band: str,
) -> MemoryServer:  # fmt: skip
    """As ``asking``, without sockets."""
    low, high = map(float, band.split(":"))
    return start_in_memory(
        {"calm": lambda: FixedTask("calm")},
        bundles=(feature_bundle, tiny_bundle),
        refine_policy=RefinePolicy(low, high, tiny_bundle.short_id, 3),
        score_threshold=low,
    )


@pytest.fixture
def client(asking_in_memory: MemoryServer, feature_bundle: Bundle, tiny_bundle: Bundle) -> Client:
    client = asking_in_memory.client()
    client.hello(bundle_id=feature_bundle.id, also_bundle_ids=(tiny_bundle.id,))
    return client


def test_a_doubtful_result_comes_behind_a_command_and_a_sure_one_alone(
    client: Client, encoder: EdgeEncoder, feature_encoder: EdgeEncoder,
    grey: NDArray[np.uint8], red: NDArray[np.uint8],
) -> None:  # fmt: skip
    client.frame(1, feature_encoder.encode(red), tasks=("detection",))
    client.wait_for("credit")
    client.frame(2, feature_encoder.encode(grey), tasks=("detection",))
    first = client.wait_for("result", 2)[1]
    kinds = [message.WhichOneof("message") for message in client.received]
    assert kinds.count("command") == 1
    assert kinds.index("command") == len(kinds) - 1 - kinds[::-1].index("result") - 1
    (command,) = client.all("command")
    picture = encoder.encode(grey, state=3)
    assert (command.refine_frame.sequence, command.refine_frame.state) == (2, 3)
    assert command.refine_frame.bundle_short_id == picture.bundle_id
    # What lies below the results' threshold is not shown.
    assert list(first.outcome.analysis.tasks["detection"].detections) == []

    refine = Refine(2, picture.layers, ("detection", "calm"), WANTED, picture.bundle_id)
    client.say(refine=refine_message(refine))
    client.say(command_reply=fleet_pb2.CommandReply(command_id=command.command_id))
    refined = client.wait_for("result", 3)[2]
    assert (refined.sequence, refined.state) == (2, 3)
    assert set(refined.outcome.analysis.tasks) == {"detection", "calm"}
    assert refined.outcome.HasField("picture")
    client.wait_for("credit", 3)
    assert len(client.all("command")) == 1  # once, however doubtful the frame still is


def test_a_frame_that_carries_such_layers_already_is_not_asked_for(
    client: Client, encoder: EdgeEncoder, feature_encoder: EdgeEncoder, grey: NDArray[np.uint8]
) -> None:
    pair = (feature_encoder.encode(grey), encoder.encode(grey, state=3))
    client.frame(1, pair, tasks=("detection",))
    client.wait_for("credit")
    assert client.all("command") == []
    coarser = (feature_encoder.encode(grey), encoder.encode(grey, state=4))
    client.frame(2, coarser, tasks=("detection",))
    client.wait_for("credit", 2)
    assert len(client.all("command")) == 1


def test_a_client_without_the_bundle_is_not_asked(
    asking_in_memory: MemoryServer, feature_bundle: Bundle, feature_encoder: EdgeEncoder,
    grey: NDArray[np.uint8],
) -> None:  # fmt: skip
    client = asking_in_memory.client()
    client.hello(bundle_id=feature_bundle.id)
    client.frame(1, feature_encoder.encode(grey), tasks=("detection",))
    client.wait_for("credit")
    assert client.all("command") == []


def test_replies_that_nobody_waits_for_are_ignored(
    client: Client, feature_encoder: EdgeEncoder, grey: NDArray[np.uint8]
) -> None:
    for command_id in ("", "refine-1", "x" * 10_000):
        client.say(command_reply=fleet_pb2.CommandReply(command_id=command_id))
    client.frame(1, feature_encoder.encode(grey), tasks=("detection",))
    client.wait_for("result")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"refine_band": "0.6:0.3"}, "LOW:HIGH"),
        ({"refine_band": "0.6"}, "refine_band"),
        ({"refine_band": "a:b"}, "refine_band"),
        ({"refine_band": "nan:1"}, "refine_band"),
        ({"refine_bundle": "none-such"}, "there is: tiny-features, tiny"),
        ({"refine_state": 5}, "states 0 to 4"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(
    asking: Any, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(FeatherwireError) as caught:
        asking(**settings)
    assert caught.value.reason == "invalid_settings"
    assert complaint in caught.value.message


# -- the session ---------------------------------------------------------------------------------


def test_send_waits_for_what_the_server_asked_for(
    asking: Any, feature_bundle: Bundle, tiny_bundle: Bundle, encoder: EdgeEncoder,
    grey: NDArray[np.uint8], red: NDArray[np.uint8],
) -> None:  # fmt: skip
    with EdgeSession(asking().address, bundle=feature_bundle, also=[tiny_bundle]) as session:
        refined = session.send(grey, picture=True, wait_refined=True).raise_for_error()
        sure = session.send(red, wait_refined=True)
        not_waited_for = session.send(grey)
        features = session.encoder.encode(grey)
    before = refined.before
    assert refined.refined
    assert before is not None
    # The picture, and what needs one, was asked for when there was one.
    assert set(before.raise_for_error().tasks) == {"detection"}
    assert before.picture is None
    assert set(refined.tasks) == {"detection", "calm"}
    picture = encoder.encode(grey, state=3)
    assert same_picture(refined.image(), BitstreamDecoder(tiny_bundle).picture(picture))
    assert (refined.state, refined.bundle_id) == (3, tiny_bundle.short_id)
    assert (before.state, before.bundle_id) == (0, feature_bundle.short_id)
    assert refined.sequence == before.sequence == 1
    assert before.payload_bytes == features.file_bytes
    assert refined.payload_bytes == features.file_bytes + picture.file_bytes
    assert refined.analysis is not None
    assert refined.analysis.payload_bytes == refined.payload_bytes
    assert (sure.refined, not_waited_for.refined) == (False, False)


def test_a_frame_leaves_before_what_is_only_kept_of_it_is_encoded(
    asking: Any, feature_bundle: Bundle, tiny_bundle: Bundle, encoder: EdgeEncoder,
    grey: NDArray[np.uint8],
) -> None:  # fmt: skip
    results: list[float] = []

    class SlowEncoder:
        def encode(self, photo: Any, *, state: int, version: int) -> Bitstream:
            time.sleep(1.0)
            results.append(time.monotonic())
            return encoder.encode(photo, state=state, version=version)

    address = asking().address
    with EdgeSession(address, bundle=feature_bundle, also=[tiny_bundle]) as session:
        session.send(grey, state=1)  # opens what is opened once
        session._framing().photo_encoder._encoders[tiny_bundle.short_id] = SlowEncoder()  # type: ignore[assignment]
        refined = session.send(grey, wait_refined=True)
        streamed = list(session.stream([grey, grey]))
    assert refined.refined
    assert refined.before is not None
    assert refined.before.round_trip_ms < 900
    assert sorted((one.sequence, one.refined) for one in streamed) == [
        (3, False), (3, True), (4, False), (4, True),
    ]  # fmt: skip
    assert len(results) == 3


def test_what_cannot_be_encoded_in_the_second_place_leaves_the_frame_alone(
    asking: Any, feature_bundle: Bundle, tiny_bundle: Bundle, grey: NDArray[np.uint8]
) -> None:
    class BrokenEncoder:
        def encode(self, photo: Any, *, state: int, version: int) -> Bitstream:
            raise PhotoError("unreadable", "not by this one")

    address = asking().address
    with EdgeSession(address, bundle=feature_bundle, also=[tiny_bundle]) as session:
        session._framing().photo_encoder._encoders[tiny_bundle.short_id] = BrokenEncoder()  # type: ignore[assignment]
        result = session.send(grey, wait_refined=True)
    assert result.refine_error is not None
    assert result.refine_error.reason == "not_refinable"
    assert set(result.tasks) == {"detection"}


def test_the_policy_may_ask_for_finer_layers_of_the_same_bundle(
    asking: Any, feature_bundle: Bundle, grey: NDArray[np.uint8]
) -> None:
    server = asking(refine_band="0.0:0.99", refine_bundle="tiny-features", refine_state=0)
    with EdgeSession(server.address, bundle=feature_bundle) as session:
        refined = session.send(grey, state=1, refinable=True, wait_refined=True)
        assert refined.refined
        assert (refined.state, refined.before and refined.before.state) == (0, 1)
        # Of the coarser chain no more than its own finest state can follow.
        assert session.send(grey, state=3, refinable=True, wait_refined=True).state == 2


def test_a_stream_yields_both_results_even_with_one_credit(
    asking: Any, feature_bundle: Bundle, tiny_bundle: Bundle,
    grey: NDArray[np.uint8], red: NDArray[np.uint8],
) -> None:  # fmt: skip
    photos = [grey, red] * 6
    for credits in (1, 4):
        address = asking(credits=credits).address
        with EdgeSession(address, bundle=feature_bundle, also=[tiny_bundle]) as session:
            results = [result.raise_for_error() for result in session.stream(photos)]
        assert sorted(r.sequence for r in results if not r.refined) == list(range(1, 13))
        refined = [r for r in results if r.refined]
        assert sorted(r.sequence for r in refined) == list(range(1, 13, 2))
        order = [id(result) for result in results]
        for result in refined:
            assert result.source is grey
            assert order.index(id(result.before)) < order.index(id(result))


def test_a_frame_that_is_no_longer_kept_is_refused_with_its_reason(
    asking: Any, feature_bundle: Bundle, tiny_bundle: Bundle, grey: NDArray[np.uint8]
) -> None:
    with capture_logs() as logs:
        server = asking()
        for room in ({"kept_frames": 0}, {"kept_bytes": 10}):
            with EdgeSession(
                server.address, bundle=feature_bundle, also=[tiny_bundle], **room
            ) as session:
                result = session.send(grey, wait_refined=True)
                assert not result.refined
                assert result.tasks["detection"].detections == []
                assert result.refine_error is not None
                assert result.refine_error.reason == "not_refinable"
                assert [one.error for one in session.stream([grey])] == [None]
        deadline = time.monotonic() + 5
        while sum(log["event"] == "command_refused" for log in logs) < 4:
            assert time.monotonic() < deadline, logs
            time.sleep(0.01)
    refusals = [log for log in logs if log["event"] == "command_refused"]
    assert {log["reason"] for log in refusals} == {"not_refinable"}


def test_a_refinement_that_fails_leaves_the_first_result(
    asking: Any, feature_bundle: Bundle, tiny_bundle: Bundle, grey: NDArray[np.uint8],
    tmp_path: Path,
) -> None:  # fmt: skip
    address = asking(data=tmp_path / "log").address
    with closing(sqlite3.connect(tmp_path / "log" / "log.db")) as log:  # it asks, and has forgotten
        log.execute(
            "CREATE TRIGGER forget AFTER INSERT ON results BEGIN"
            " UPDATE submissions SET message = NULL WHERE id = NEW.submission_id; END"
        )
    with EdgeSession(address, bundle=feature_bundle, also=[tiny_bundle]) as session:
        result = session.send(grey, wait_refined=True)
        streamed = list(session.stream([grey]))
    assert not result.refined
    assert result.refine_error is not None
    assert result.refine_error.reason == "refine_evicted"
    assert [one.refined for one in streamed] == [False, True]
    assert streamed[1].error is not None
    assert streamed[1].error.reason == "refine_evicted"


def test_a_server_that_stops_lets_what_it_asked_for_come_back_or_says_draining(
    asking: Any, feature_bundle: Bundle, tiny_bundle: Bundle, grey: NDArray[np.uint8]
) -> None:
    server = asking()
    results: list[Any] = []
    ended: list[str] = []

    def stream() -> None:
        with EdgeSession(server.address, bundle=feature_bundle, also=[tiny_bundle]) as session:
            try:
                for result in session.stream([grey] * 400):
                    results.append(result)
            except SessionError as error:
                ended.append(error.reason)

    thread = threading.Thread(target=stream)
    thread.start()
    while not any(result.refined for result in list(results)):
        time.sleep(0.01)
    server.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert server.join()
    assert ended == ["draining"]
    assert {r.error.reason for r in results if r.error is not None} <= {"draining"}
    assert any(r.refined and r.error is None for r in results)


# -- what is kept --------------------------------------------------------------------------------


def _part(sent: int | None, layers: int = 5, size: int = 10) -> Part:
    finest = Bitstream(
        b"kept-id!", 64, 64, 0, tuple(Layer(n, bytes(size)) for n in range(layers - 1, -1, -1))
    )
    return Part(None if sent is None else finest.truncate(sent), finest)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 300)), max_size=40),
    st.integers(0, 5),
    st.integers(0, 2000),
)
def test_what_is_kept_stays_within_its_bounds(
    frames: list[tuple[int, int]], max_frames: int, max_bytes: int
) -> None:
    kept = RefinementStore(max_frames, max_bytes)
    for sequence, (layers, size) in enumerate(frames, start=1):
        part = _part(None, layers, size)
        kept.keep(sequence, (part,), (), None)
        assert len(kept) <= max_frames
        assert kept.total_bytes <= max_bytes
        assert part.finest is not None
        if max_frames and part.finest.file_bytes <= max_bytes:
            assert kept.refinement(sequence, b"kept-id!", 0).layers == part.finest.layers


def test_a_refinement_is_what_is_still_lacking() -> None:
    kept = RefinementStore()
    kept.keep(7, (_part(3),), ("detection",), WANTED)
    refinement = kept.refinement(7, b"", 1)
    assert [layer.state for layer in refinement.layers] == [2, 1]
    assert (refinement.tasks, refinement.picture) == (("detection",), WANTED)
    kept.sent(refinement)
    assert [layer.state for layer in kept.refinement(7, b"kept-id!", 0).layers] == [0]
    kept.keep(8, (_part(None),), (), None)
    # Nothing was sent: it begins with the coarsest that is kept, however little is asked for.
    assert [layer.state for layer in kept.refinement(8, b"kept-id!", 200).layers] == [4]
    for sequence, bundle_id, state in ((7, b"", 1), (9, b"", 0), (7, b"other-id", 0), (8, b"", 0)):
        with pytest.raises(SessionError) as caught:
            kept.refinement(sequence, bundle_id, state)
        assert caught.value.reason == "not_refinable"


def test_the_finest_of_the_chain_is_kept(
    feature_encoder: EdgeEncoder, encoder: EdgeEncoder, grey: NDArray[np.uint8]
) -> None:
    for one, states in ((feature_encoder, range(4)), (encoder, range(5))):
        for state in states:
            sent, finest = one.encode_kept(grey, RateTarget(state=state))
            assert sent == one.encode(grey, state=state)
            assert finest.layers[: len(sent.layers)] == sent.layers
            assert finest.state == one.bundle.manifest.finest_of(state)
        budget = one.encode(grey, state=1).file_bytes
        sent, finest = one.encode_kept(grey, RateTarget(max_bytes=budget))
        assert sent == one.encode(grey, max_bytes=budget)
        assert finest.state == one.bundle.manifest.finest_of(sent.state)


# -- the commands --------------------------------------------------------------------------------


def test_the_commands_refine_what_is_doubtful(
    tiny_bundle: Bundle, feature_bundle: Bundle, band: str,
    grey: NDArray[np.uint8], red: NDArray[np.uint8], tmp_path: Path,
) -> None:  # fmt: skip
    for name, pixels in (("grey", grey), ("red", red)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    photos = [str(tmp_path / "grey.png"), str(tmp_path / "red.png")]
    with server_process(
        "--bundle", feature_bundle.origin, "--bundles", tiny_bundle.origin, "--tasks", "none",
        "--refine-band", band, "--refine-bundle", "tiny", "--refine-state", "4",
    ) as (_, ready):  # fmt: skip
        assert ready["bundles"] == {
            "tiny-features": feature_bundle.id, "tiny": tiny_bundle.id,
        }  # fmt: skip
        common = (*photos, "--server", ready["listening"], "--bundle", feature_bundle.origin)
        also = run(
            "edge_client", "send", *common, "--also", tiny_bundle.origin, "--picture",
            "-o", str(tmp_path / "out"), "--json",
        )  # fmt: skip
        both = run(
            "edge_client", "send", *common, "--with", f"{tiny_bundle.origin}:2", "--picture",
            "-o", str(tmp_path / "both"), "--json",
        )  # fmt: skip
        wrong = run("edge_client", "send", *common, "--also", "none-such")
    assert also.returncode == 0, also.stderr
    records = json.loads(also.stdout)["results"]
    assert [(Path(r["photo"]).stem, r["refined"], r["state"]) for r in records] == [
        ("grey", False, 0), ("grey", True, 4), ("red", False, 0),
    ]  # fmt: skip
    assert records[1]["bundle"] == tiny_bundle.id[:16]
    saved = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert saved == ["grey.json", "grey.refined.json", "grey.refined.png", "red.json"]
    assert both.returncode == 0, both.stderr
    records = json.loads(both.stdout)["results"]
    assert [r["refined"] for r in records] == [False, False]
    assert all(Path(r["picture"]).is_file() for r in records)
    assert wrong.returncode == 3, wrong.stderr
