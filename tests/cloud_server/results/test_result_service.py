"""ResultService and its commands, against a real server: pages, keys, replay then live, frames."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cloud_server.consumers import ResultClient
from cloud_server.engine.files import BitstreamDecoder
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import results_pb2, results_pb2_grpc
from shared.rpc.errors import error_from_call
from shared.wire import PictureRequest
from shared.wire.features import parse_features
from shared.wire.requests import Refine, refine_message
from tests.support.commands import run
from tests.support.pictures import same_picture
from tests.support.raw_client import RawClient
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]
TAKEN = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image)


@pytest.fixture
def server(start_server: Start) -> ServerThread:
    return start_server({"calm": lambda: FixedTask("calm")})


@pytest.fixture
def consumer(server: ServerThread) -> Iterator[ResultClient]:
    with ResultClient(server.address) as client:
        yield client


@pytest.fixture
def send(server: ServerThread) -> Iterator[Callable[..., None]]:
    """Sends a frame of a session and waits for its result."""
    clients: dict[str, RawClient] = {}

    def one(session: str, sequence: int, bitstream: Any, **fields: Any) -> None:
        if session not in clients:
            clients[session] = RawClient(server.address)
            clients[session].hello(device="camera", session=session)
        client = clients[session]
        before = len(client.all("result"))
        client.frame(sequence, bitstream, **fields)
        client.wait_for("result", before + 1)

    yield one
    for client in clients.values():
        client.close()


def key(sequence: int, session: str = "s") -> results_pb2.FrameKey:
    return results_pb2.FrameKey(device="camera", session=session, sequence=sequence)


def test_what_devices_sent_is_listed_in_order_and_found_by_key(
    consumer: ResultClient, send: Any, bitstream: Bitstream
) -> None:
    send("s", 1, bitstream, tasks=("calm",), captured_at=TAKEN, picture=PictureRequest())
    send("t", 1, bitstream)
    send("s", 2, replace(bitstream, bundle_id=b"\0" * 8))
    records = list(consumer.records())
    assert [(one.cursor, one.session, one.sequence) for one in records] == [
        (1, "s", 1),
        (2, "t", 1),
        (3, "s", 2),
    ]
    first = records[0]
    assert first.captured_at.ToDatetime(tzinfo=UTC) == TAKEN
    assert first.state == bitstream.state
    assert first.bundle_short_id == bitstream.bundle_id
    assert first.outcome.analysis.tasks["calm"].detections[0].class_name == "thing"
    assert not first.outcome.HasField("picture")
    assert records[2].outcome.error.reason == "bundle_mismatch"
    assert list(consumer.records(after=1)) == records[1:]
    assert list(consumer.records(results_pb2.ResultFilter(sessions=["t"]))) == [records[1]]
    assert list(consumer.records(results_pb2.ResultFilter(class_names=["thing"]))) == [first]
    assert consumer.record(cursor=2) == records[1]
    assert consumer.record(frame=key(2)) == records[2]
    for missing in ({"cursor": 99}, {"frame": key(99)}, {"frame": key(1, "nobody")}):
        with pytest.raises(FeatherwireError) as caught:
            consumer.record(**missing)  # type: ignore[arg-type]
        assert caught.value.reason == "not_found"


def test_a_subscriber_gets_what_was_and_then_what_comes(
    consumer: ResultClient, send: Any, bitstream: Bitstream
) -> None:
    for sequence in (1, 2, 3):
        send("s", sequence, bitstream)
    responses = consumer.responses(after=1)
    assert [next(responses).record.sequence for _ in range(2)] == [2, 3]
    assert next(responses).position == 3  # all that was there has come
    live = consumer.responses(results_pb2.ResultFilter(tasks=["calm"]))
    assert next(live).position == 3
    send("s", 4, bitstream)
    send("s", 5, bitstream, tasks=("calm",))
    assert [next(responses).record.sequence for _ in range(2)] == [4, 5]
    assert next(live).record.sequence == 5


def test_replay_and_live_join_without_a_gap_under_load(
    server: ServerThread, consumer: ResultClient, bitstream: Bitstream
) -> None:
    client = RawClient(server.address)
    credits = client.hello(session="load").credits
    total = 300
    seen: list[list[int]] = []

    def follow(after: int) -> None:
        with ResultClient(server.address) as own:
            mine: list[int] = []
            seen.append(mine)
            for response in own.responses(after=after):
                if response.HasField("record"):
                    mine.append(response.record.cursor)
                    if mine[-1] == total:
                        return

    threads = []
    for sequence in range(1, total + 1):
        client.wait_until(
            lambda n=sequence: sum(one.credits for one in client.all("credit")) + credits >= n
        )
        client.frame(sequence, bitstream)
        if sequence % 50 == 0:
            threads.append(threading.Thread(target=follow, args=(sequence // 4,), daemon=True))
            threads[-1].start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(seen) == 6
    assert all(mine == list(range(mine[0], total + 1)) for mine in seen)
    client.close()


def test_a_cursor_that_is_not_of_this_log_is_refused(
    server: ServerThread, consumer: ResultClient, send: Any, bitstream: Bitstream
) -> None:
    send("s", 1, bitstream)
    with pytest.raises(FeatherwireError) as caught:
        next(consumer.responses(after=7))
    assert (caught.value.reason, caught.value.details["cursor"]) == ("unknown_cursor", 1)
    stub = results_pb2_grpc.ResultServiceStub(grpc.insecure_channel(server.address))
    with pytest.raises(grpc.RpcError) as refused:
        stub.ListResults(results_pb2.ListResultsRequest(after_cursor=2**64 - 1))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_a_cursor_older_than_what_is_kept_is_told_where_the_log_begins(
    start_server: Start, bitstream: Bitstream
) -> None:
    server = start_server(keep_days=1e-7)
    server.server.retention._every_s = 0.05
    client = RawClient(server.address)
    client.hello()
    with ResultClient(server.address) as consumer:
        for sequence in (1, 2, 3):
            client.frame(sequence, bitstream)
            client.wait_for("result", sequence)
        client.wait_until(lambda: server.server.retention.counts.results["age"] == 3)
        for read in (consumer.list, consumer.watch):
            with pytest.raises(FeatherwireError) as caught:
                next(read(after=1))
            assert (caught.value.reason, caught.value.details["cursor"]) == ("cursor_expired", 3)
        assert list(consumer.records(after=0)) == []
        with pytest.raises(FeatherwireError) as caught:
            consumer.stored(key(1))
        assert caught.value.reason == "not_found"
        # What was forgotten is known all the same: it is not processed again.
        client.frame(1, bitstream)
        result = client.wait_for("result", 4)[3]
        assert result.outcome.error.reason == "result_not_kept"
        assert client.all("ack")[-1].duplicate
    client.close()


def test_followers_are_told_where_they_are_when_the_server_stops(
    server: ServerThread, consumer: ResultClient, send: Any, bitstream: Bitstream
) -> None:
    send("s", 1, bitstream)
    responses = consumer.responses(after=0)
    assert next(responses).record.cursor == 1
    assert next(responses).position == 1
    server.stop()
    with pytest.raises(FeatherwireError) as caught:
        next(responses)
    assert (caught.value.reason, caught.value.details["cursor"]) == ("draining", 1)


def test_more_subscribers_than_places_are_refused(start_server: Start) -> None:
    server = start_server(max_subscribers=1)
    with ResultClient(server.address) as one, ResultClient(server.address) as other:
        first = one.responses(after=0)
        assert next(first).position == 0
        with pytest.raises(FeatherwireError) as caught:
            next(other.responses())
        assert caught.value.reason == "too_many_streams"
        first.close()  # type: ignore[attr-defined]
        assert next(other.responses(patience_s=20)).position == 0


# -- frames --------------------------------------------------------------------------------------


def test_a_stored_frame_is_what_was_sent_at_any_coarser_state(
    consumer: ResultClient, send: Any, bitstream: Bitstream, tiny_bundle: Bundle
) -> None:
    send("s", 1, bitstream.truncate(1), captured_at=TAKEN)
    whole, picture = consumer.stored(key(1))
    assert whole.to_bytes() == bitstream.truncate(1).to_bytes()
    assert picture is None
    decoder = BitstreamDecoder(tiny_bundle)
    for state in (0, 1, 2, 4):
        cut, made = consumer.stored(key(1), state=state, picture=PictureRequest())
        assert cut.to_bytes() == bitstream.truncate(max(1, state)).to_bytes()
        assert made is not None
        shown = np.asarray(Image.open(io.BytesIO(made.data)))
        assert same_picture(shown, decoder.picture(cut))
    sizes = bitstream.cumulative_bytes()
    for budget, state in ((sizes[2], 2), (sizes[2] - 1, 3), (sizes[4], 4), (10**9, 1)):
        cut, _ = consumer.stored(key(1), max_bytes=budget)
        assert (cut.state, cut.to_bytes()) == (state, bitstream.truncate(state).to_bytes())
    for wrong, reason in (
        ({"state": 99}, "bad_state"),
        ({"max_bytes": sizes[4] - 1}, "budget_too_small"),
        ({"bundle_id": b"\1" * 8}, "not_found"),
        ({"bundle_id": b"short"}, "bad_bundle_id"),
    ):
        with pytest.raises(FeatherwireError) as caught:
            consumer.stored(key(1), **wrong)
        assert caught.value.reason == reason


def test_a_reader_of_before_gets_the_frame_in_the_format_that_it_knows(
    server: ServerThread,
    send: Any,
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
    consumer: ResultClient,
) -> None:
    sent = {version: encoder.encode(image, state=1, version=version) for version in (3, 4)}
    for version, bitstream in sent.items():
        send("s", version, bitstream)
    with grpc.insecure_channel(server.address) as channel:
        stub = results_pb2_grpc.ResultServiceStub(channel)
        for sequence in (3, 4):
            request = results_pb2.GetFrameRequest(frame=key(sequence))
            assert parse_features(stub.GetFrame(request).features) == sent[3]
            request.max_bytes = sent[3].file_bytes - 1
            assert parse_features(stub.GetFrame(request).features) == sent[3].truncate(2)
            request.format_versions.append(9)
            with pytest.raises(grpc.RpcError) as refused:
                stub.GetFrame(request)
            assert error_from_call(refused.value, server.address).reason == "bad_version"
            assert consumer.frame(("camera", "s", sequence))[0] == sent[sequence]


def test_part_of_a_layer_is_left_out_with_its_layer(
    consumer: ResultClient, send: Any, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    sizes = encoder.encode(image).cumulative_bytes()
    sent = encoder.encode(image, max_bytes=(sizes[1] + sizes[0]) // 2 + 8)
    assert sent.partial is not None
    send("s", 1, sent)
    assert consumer.stored(key(1))[0] == sent
    assert consumer.stored(key(1), state=sent.state)[0] == sent.truncate(sent.state)
    assert consumer.stored(key(1), state=0)[0] == sent
    assert consumer.stored(key(1), max_bytes=sent.file_bytes)[0] == sent
    assert consumer.stored(key(1), max_bytes=sent.file_bytes - 1)[0] == sent.truncate(sent.state)


def test_a_refined_frame_has_all_its_layers_and_a_result_for_each(
    server: ServerThread, consumer: ResultClient, bitstream: Bitstream
) -> None:
    client = RawClient(server.address)
    client.hello(device="camera", session="s")
    client.frame(1, bitstream.truncate(3))
    # Not even its Ack is waited for.
    client.say(refine=refine_message(Refine(1, bitstream.layers[2:4])))
    results = client.wait_for("result", 2)
    assert sorted(one.state for one in results) == [1, 3]
    assert consumer.stored(key(1))[0].to_bytes() == bitstream.truncate(1).to_bytes()
    assert sorted(one.state for one in consumer.records()) == [1, 3]
    assert consumer.record(frame=key(1)).cursor == 2
    client.say(refine=refine_message(Refine(1, bitstream.layers[2:4])))
    assert client.wait_for("ack", 3)[2].duplicate
    assert len(list(consumer.records())) == 2
    client.close()


def test_of_several_bundles_the_right_one_is_given(
    start_server: Start, feature_bundle: Bundle, tiny_bundle: Bundle,
    feature_encoder: EdgeEncoder, encoder: EdgeEncoder, image: NDArray[np.uint8],
) -> None:  # fmt: skip
    server = start_server(bundles=(feature_bundle.origin,))
    pair = (feature_encoder.encode(image), encoder.encode(image))
    client = RawClient(server.address)
    client.hello(device="camera", session="s")
    client.frame(1, pair)
    client.frame(2, pair[0])
    client.wait_for("result", 2)
    with ResultClient(server.address) as consumer:
        assert consumer.stored(key(1))[0] == pair[0]
        assert consumer.stored(key(1), bundle_id=tiny_bundle.short_id)[0] == pair[1]
        assert consumer.stored(key(1), picture=PictureRequest())[0] == pair[1]
        with pytest.raises(FeatherwireError) as caught:
            consumer.stored(key(2), picture=PictureRequest())
        assert caught.value.reason == "no_picture"
        request = results_pb2.GetFrameRequest(frame=key(1))
        stub = results_pb2_grpc.ResultServiceStub(grpc.insecure_channel(server.address))
        carried = stub.GetFrame(request).bundle_short_ids
        assert list(carried) == [one.bundle_id for one in pair]
    client.close()


# -- commands ------------------------------------------------------------------------------------


def results(address: str, *arguments: str) -> Any:
    return run("cloud_server", "results", *arguments, "--server", address)


def test_the_commands_say_what_the_service_says(
    server: ServerThread, send: Any, bitstream: Bitstream, tmp_path: Path
) -> None:
    for sequence in (1, 2, 3):
        tasks = ("calm",) if sequence == 2 else ()
        send("s", sequence, bitstream, tasks=tasks, captured_at=TAKEN)
    listed = results(server.address, "list", "--json")
    documents = json.loads(listed.stdout)["results"]
    assert [one["cursor"] for one in documents] == [1, 2, 3]
    assert documents[1]["analysis"]["tasks"]["calm"]["detections"][0]["class_name"] == "thing"
    assert documents[0]["captured_at"] == "2024-05-06T07:08:09.123456Z"
    table = results(server.address, "list", "--task", "calm").stdout
    assert "1 thing" in table
    assert table.count("camera") == 1
    watched = results(server.address, "watch", "--after", "1", "--limit", "2", "--json")
    assert [json.loads(line) for line in watched.stdout.splitlines()] == documents[1:]
    for name in (("2",), ("camera", "s", "2")):
        assert json.loads(results(server.address, "get", *name, "--json").stdout) == documents[1]
        file = tmp_path / "frame.fwf"
        saved = results(
            server.address, "frame", *name, "-o", str(file), "--state", "3", "--picture"
        )
        assert saved.returncode == 0, saved.stderr
        assert file.read_bytes() == bitstream.truncate(3).to_bytes()
        assert Image.open(tmp_path / "frame.png").size == (160, 96)


def test_the_commands_exit_as_the_others_do(server: ServerThread) -> None:
    missing = results(server.address, "get", "99")
    assert missing.returncode == 1
    assert "[not_found]" in missing.stderr
    assert results(server.address, "get", "one").returncode == 2
    assert results(server.address, "get", "camera", "s").returncode == 2
    gone = results("127.0.0.1:1", "list", "--json")
    assert gone.returncode == 4
    assert json.loads(gone.stdout)["error"]["reason"] == "unreachable"
    assert results("127.0.0.1:1", "watch", "--patience", "0").returncode == 4


def test_an_outcome_of_any_kind_is_shown(server: ServerThread, send: Any, bitstream: Any) -> None:
    send("s", 1, replace(bitstream, bundle_id=b"\0" * 8))
    send("s", 2, bitstream, tasks=("telepathy",))
    shown = results(server.address, "list").stdout
    assert "error: bundle_mismatch" in shown
    assert "telepathy: unknown_task" in shown


def test_results_in_plain_python(consumer: ResultClient, send: Any, bitstream: Bitstream) -> None:
    send("s", 1, bitstream, tasks=("calm",), captured_at=TAKEN)
    send("t", 1, bitstream)
    send("s", 2, replace(bitstream, bundle_id=b"\0" * 8))
    one, two, three = consumer.list()
    assert (one.cursor, one.device, one.session, one.sequence) == (1, "camera", "s", 1)
    assert one.captured_at == TAKEN
    assert one.bundle == bitstream.bundle_id.hex()
    detections = one.tasks["calm"].detections
    assert detections is not None
    assert [found.class_name for found in detections] == ["thing"]
    assert one.found == "1 thing"
    assert two.found == ""
    assert three.found == "error: bundle_mismatch"
    assert three.tasks == {}
    assert [r.cursor for r in consumer.list(session="t")] == [2]
    assert [r.cursor for r in consumer.list(session=["s", "t"], after=1)] == [2, 3]
    assert [r.cursor for r in consumer.list(classes=["thing"], device="camera")] == [1]
    assert list(consumer.list(device="nobody")) == []
    assert [r.cursor for r in consumer.list(newest_first=True)] == [3, 2, 1]
    assert [r.cursor for r in consumer.list(newest_first=True, after=1)] == [3, 2]
    assert two.completed_at is not None
    later = [r.cursor for r in consumer.list(since=two.completed_at)]
    assert later == [2, 3]
    assert [r.cursor for r in consumer.list(until=two.completed_at)] == [1]
    assert [r.cursor for r in consumer.list(since=timedelta(hours=1))] == [1, 2, 3]
    here = two.completed_at.astimezone().replace(tzinfo=None)  # without a zone: this machine's
    assert [r.cursor for r in consumer.list(since=here)] == later
    with pytest.raises(FeatherwireError) as caught:
        list(consumer.list(since=timedelta(days=1e6)))
    assert caught.value.reason == "bad_option"
    assert consumer.get(2) == consumer.get(frame=("camera", "t", 1)) == two
    watched = consumer.watch(after=1)
    assert [next(watched).cursor, next(watched).cursor] == [2, 3]
    assert consumer.frame(one)[0] == consumer.frame(("camera", "s", 1))[0] == bitstream
    values = one.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["captured_at"].endswith("Z")
