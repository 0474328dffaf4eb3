"""A session with a spool: reconnecting, resuming, draining, settings, and one result a frame."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_client.encoder import EdgeEncoder
from edge_client.session import CapturedPhoto, EdgeSession, Origin
from edge_client.spool import Spool
from shared.bundle import Bundle
from shared.errors import FeatherwireError, SessionError
from shared.names import text_of
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire import FrameOutcome, device_protocol
from tests.support.proxy import Proxy
from tests.support.recorder import Recorder
from tests.support.scripted_server import Requests, ScriptedServer, answer, say, welcome
from tests.support.servers import ROOT, FixedTask, ServerThread

Start = Callable[..., ServerThread]
Responses = Iterator[ingest_pb2.ConnectResponse]
OUTCOME = FrameOutcome(error=FeatherwireError("made_up", "a result that this test made up"))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool.open(tmp_path / "spool") as spool:
        yield spool


def numbered(count: int) -> Iterator[NDArray[np.uint8]]:
    for number in range(1, count + 1):
        rng = np.random.default_rng(number)
        yield rng.integers(0, 255, (48, 32 + number, 3)).astype(np.uint8)


def frames_of(requests: Requests) -> Iterator[ingest_pb2.Frame]:
    return (one.frame for one in requests if one.WhichOneof("message") == "frame")


def test_a_drained_server_hands_its_client_over_without_loss(
    start_server: Start, encoder: EdgeEncoder, spool: Spool
) -> None:
    first, second = Recorder(), Recorder()
    server = start_server({"record": lambda: first})
    results = []
    with (
        Proxy(server.address) as proxy,
        EdgeSession(proxy.address, encoder=encoder, spool=spool, connect_timeout_s=30) as session,
    ):
        for result in session.stream(numbered(200), tasks=["record"]):
            results.append(result)
            if len(results) == 20:
                proxy.target = start_server({"record": lambda: second}).address
                server.stop()
    assert server.join(), "what was in flight came to its end"
    assert {result.error for result in results} == {None}
    assert sorted(result.sequence for result in results) == list(range(1, 201))
    assert first.widths + second.widths == list(range(33, 233))
    assert first.widths
    assert second.widths


def test_results_that_a_process_did_not_take_come_to_the_next_one(
    start_server: Start, encoder: EdgeEncoder, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    address = start_server({"slow": lambda: FixedTask("slow", 0.3)}).address
    with Spool.open(tmp_path) as spool:
        session = EdgeSession(address, device="d", encoder=encoder, spool=spool).open()
        results = session.stream([image] * 4, tasks=["slow"])
        first = next(results)
        results.close()
        while spool.stats().frames:  # all are at the server
            time.sleep(0.01)
        session._exchange._sender.close(timeout_s=0)  # type: ignore[union-attr]  # as if it were killed
    with (
        Spool.open(tmp_path) as spool,
        EdgeSession(address, device="d", encoder=encoder, spool=spool) as session,
    ):
        later = list(session.flush())
        assert first.sequence not in [result.sequence for result in later]
        assert sorted(r.sequence for r in [first, *later]) == [1, 2, 3, 4]
        assert {result.error for result in later} == {None}
        assert list(session.flush()) == []


def test_resume_takes_frames_as_acknowledged_and_sends_the_rest_in_order(
    encoder: EdgeEncoder, spool: Spool
) -> None:
    seen: list[list[int]] = []

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        seen.append([])
        if number == 1:  # takes three, acknowledges none, and is gone
            yield welcome(hello)
            for frame in frames_of(requests):
                seen[-1].append(frame.sequence)
                if frame.sequence == 3:
                    return
        yield welcome(hello, resume_after_sequence=2)
        for sequence in (1, 2):
            error = ingest_pb2.Result(result_id=sequence, sequence=sequence)
            error.outcome.error.reason = "of_before"
            yield say(result=error)
            yield say(result=error)  # twice
        for frame in frames_of(requests):
            seen[-1].append(frame.sequence)
            yield from answer(frame, frame.sequence, OUTCOME)
            yield from answer(frame, frame.sequence, OUTCOME)  # however often it comes

    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, encoder=encoder, spool=spool) as session,
    ):
        results = list(session.stream(numbered(6)))
        assert seen == [[1, 2, 3], [3, 4, 5, 6]]
        assert [result.sequence for result in results] == [1, 2, 3, 4, 5, 6]
        assert [r.error.reason for r in results if r.error] == ["of_before"] * 2 + ["made_up"] * 4
        assert {hello.session for hello in server.hellos} == {spool.session}
        assert spool.last_result_seen == 6


def test_a_frame_that_the_server_cannot_take_now_is_sent_again_in_its_place(
    encoder: EdgeEncoder, spool: Spool
) -> None:
    taken: list[int] = []

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield welcome(hello, credits=1)
        for frame in frames_of(requests):
            if number == 1 and frame.sequence == 2:
                first = frame.features[0]
                busy = ingest_pb2.Result(
                    sequence=2, state=first.state, bundle_short_id=first.bundle_short_id
                )
                busy.outcome.error.reason = "busy"
                yield say(result=busy)
                continue
            taken.append(frame.sequence)
            yield from answer(frame, frame.sequence, OUTCOME)

    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, encoder=encoder, spool=spool) as session,
    ):
        results = list(session.stream(numbered(4)))
        assert taken == [1, 2, 3, 4]
        assert [r.error.reason for r in results if r.error] == ["made_up"] * 4
        assert len(server.hellos) == 2


def test_a_server_that_knows_more_than_the_spool_gets_a_new_session(
    encoder: EdgeEncoder, spool: Spool
) -> None:
    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield welcome(hello, resume_after_sequence=1000 if number == 1 else 0)
        for frame in frames_of(requests):
            yield from answer(frame, frame.sequence, OUTCOME)

    before = spool.session
    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, encoder=encoder, spool=spool) as session,
    ):
        results = list(session.stream(numbered(3)))
        assert [result.sequence for result in results] == [1, 2, 3]
        assert [hello.session for hello in server.hellos] == [before, spool.session]
        assert before != spool.session


def test_a_stream_that_leaves_a_heartbeat_unanswered_is_opened_anew(
    encoder: EdgeEncoder, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_protocol, "HEARTBEAT_TIME_S", 0.2)
    monkeypatch.setattr(device_protocol, "HEARTBEAT_TIMEOUT_S", 0.3)
    beats = threading.Event()
    again = threading.Event()

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        if number == 2:
            again.set()
        yield welcome(hello)
        for request in requests:
            if request.WhichOneof("message") == "heartbeat":
                beats.set()
                if number > 1:
                    beat = ingest_pb2.Heartbeat(nonce=request.heartbeat.nonce, reply=True)
                    yield say(heartbeat=beat)

    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, encoder=encoder, spool=spool),
    ):
        assert beats.wait(10)
        assert again.wait(10)
        time.sleep(1.5)
        assert len(server.hellos) == 2, "an answered heartbeat keeps the stream"


def test_settings_that_the_server_commands_are_kept_over_a_restart(
    encoder: EdgeEncoder, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    replies: list[fleet_pb2.CommandReply] = []
    asked: list[tuple[list[str], int]] = []

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield welcome(hello)
        if number == 1:
            rate, tasks, bundle = (fleet_pb2.Command(command_id=name) for name in "rtb")
            rate.set_rate.policy.state = 3
            tasks.set_tasks.tasks.append("detection")
            bundle.use_bundle.bundle_id = "0" * 64
            yield from (say(command=one) for one in (rate, tasks, bundle))
        for request in requests:
            if request.WhichOneof("message") == "command_reply":
                replies.append(request.command_reply)
            elif request.WhichOneof("message") == "frame":
                asked.append((list(request.frame.tasks), request.frame.features[0].state))
                yield from answer(request.frame, request.frame.sequence, OUTCOME)

    with ScriptedServer(script) as server:
        for _ in range(2):
            with (
                Spool.open(tmp_path) as spool,
                EdgeSession(server.address, encoder=encoder, spool=spool) as session,
            ):
                while len(replies) < 3:
                    time.sleep(0.01)
                with pytest.raises(FeatherwireError, match="made up"):
                    session.send(image)
    reasons = {one.command_id: one.error.reason for one in replies}
    assert reasons == {"r": "", "t": "", "b": "refused"}
    assert [state for _, state in asked] == [3, 3]


def test_without_a_server_a_frame_is_kept_and_that_is_said(
    encoder: EdgeEncoder, spool: Spool, image: NDArray[np.uint8]
) -> None:
    with EdgeSession("127.0.0.1:1", encoder=encoder, spool=spool, connect_timeout_s=0.3) as session:
        with pytest.raises(SessionError) as caught:
            session.send(image)
        assert caught.value.reason == "spooled"
        assert not session.online
    assert spool.stats().frames == 1


def test_a_bundle_that_the_server_refuses_is_an_error_and_loses_nothing(
    start_server: Start, feature_encoder: EdgeEncoder, spool: Spool, image: NDArray[np.uint8]
) -> None:
    with (
        EdgeSession(
            "127.0.0.1:1", encoder=feature_encoder, spool=spool, connect_timeout_s=0.3
        ) as session,
        pytest.raises(SessionError),
    ):
        session.send(image)
    with (
        pytest.raises(SessionError) as caught,
        EdgeSession(start_server().address, encoder=feature_encoder, spool=spool),
    ):
        pass
    assert caught.value.reason == "bundle_mismatch"
    assert spool.stats().frames == 1


# -- the commands --------------------------------------------------------------------------------


def edge(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from edge_client.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )


def test_send_keeps_what_no_server_takes_and_flush_delivers_it(
    server: str, tiny_bundle: Bundle, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    photos = [tmp_path / f"{name}.png" for name in "abc"]
    for photo in photos:
        Image.fromarray(image).save(photo)
    spool, out = tmp_path / "spool", tmp_path / "out"
    dead = ("--server", "127.0.0.1:1", "--spool", spool, "--timeout", "0.3")
    kept = edge("send", *photos, *dead, "--bundle", tiny_bundle.origin, "--json")
    assert kept.returncode == 0, kept.stderr
    assert "3 frames are kept" in kept.stderr
    assert [Path(one["file"]).stem for one in json.loads(kept.stdout)["kept"]] == ["a", "b", "c"]

    nowhere = edge("flush", "--server", server, "--spool", tmp_path / "mistyped")
    assert (nowhere.returncode, (tmp_path / "mistyped").exists()) == (2, False)

    still = edge("flush", *dead)
    assert still.returncode == 4
    assert "3 frames are kept" in still.stderr

    sent = edge("flush", "--server", server, "--spool", spool, "-o", out, "--json")
    assert sent.returncode == 0, sent.stderr
    assert [one["sequence"] for one in json.loads(sent.stdout)["results"]] == [1, 2, 3]
    assert sorted(path.name for path in out.iterdir()) == ["a.json", "b.json", "c.json"]

    more = ("send", photos[0], "--spool", spool, "--json", "--bandwidth", "1M")
    again = edge(*more, "--server", server, "--bundle", tiny_bundle.origin)
    assert again.returncode == 0, again.stderr
    assert [one["sequence"] for one in json.loads(again.stdout)["results"]] == [4]


@pytest.mark.parametrize("bad", ["0", "-1", "64q", "nan", "1e3", "k"])
def test_a_bandwidth_that_is_none_is_wrong_usage(bad: str, tmp_path: Path) -> None:
    said = edge("send", tmp_path / "a.png", "--server", "127.0.0.1:1", "--bandwidth", bad)
    assert said.returncode == 2
    assert "bandwidth" in said.stderr


def test_a_photo_whose_name_is_no_unicode_is_sent_and_dated(
    start_server: Start, encoder: EdgeEncoder, spool: Spool, tmp_path: Path
) -> None:
    """As old cameras and memory sticks bring them; a spool writes names down."""
    name = tmp_path / os.fsdecode(b"b-caf\xe9.png")
    Image.new("RGB", (48, 32), (200, 60, 40)).save(name)
    address = start_server().address
    with EdgeSession(address, encoder=encoder, spool=spool) as session:
        photos = [name, CapturedPhoto(name, Origin("dated", 1_600_000_000.5))]
        results = {text_of(str(one.source)): one for one in session.stream(photos, tasks=[])}
    assert [one.error for one in results.values()] == [None, None]
    assert set(results) == {text_of(name), "dated"}
