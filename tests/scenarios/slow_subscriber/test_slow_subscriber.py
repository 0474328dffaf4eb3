"""A subscriber that reads nothing: it is cut off where it is, and nobody else notices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.consumers import ResultClient
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import results_pb2, results_pb2_grpc
from shared.results import Detection, TaskResult
from shared.rpc.channel import open_channel
from tests.support.raw_client import RawClient
from tests.support.servers import BOX, FixedTask, ServerThread

FRAMES = 250
BUFFER = 32


class Wordy(FixedTask):
    """Finds a thousand things in every picture: records of 40 kB."""

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        found = [Detection(box=BOX, class_id=0, class_name="thing", score=0.5)] * 1000
        return [TaskResult(task=self.name, model=self.models, detections=found) for _ in images]


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image, state=4)


def send(address: str, session: str, bitstream: Bitstream) -> float:
    """Send all frames, with as many in flight as may be; returns frames a second."""
    client = RawClient(address)
    credits = client.hello(session=session).credits
    started = time.monotonic()
    for sequence in range(1, FRAMES + 1):
        client.wait_until(
            lambda n=sequence: sum(one.credits for one in client.all("credit")) + credits >= n, 60
        )
        client.frame(sequence, bitstream, tasks=("wordy",))
    client.wait_for("result", FRAMES, 60)
    elapsed_s = time.monotonic() - started
    client.close()
    return FRAMES / elapsed_s


def cursors(responses: Any, last: int) -> list[int]:
    seen: list[int] = []
    while not seen or seen[-1] < last:
        response = next(responses)
        if response.HasField("record"):
            seen.append(response.record.cursor)
    return seen


def test_a_stalled_subscriber_is_cut_off_with_its_cursor_and_slows_nobody(
    start_server: Callable[..., ServerThread], bitstream: Bitstream
) -> None:
    server = start_server({"wordy": lambda: Wordy("wordy")}, subscriber_buffer=BUFFER)
    feed = server.server._log.feed
    alone = send(server.address, "alone", bitstream)

    channel = open_channel(server.address)
    stub = results_pb2_grpc.ResultServiceStub(channel)
    stalled = stub.SubscribeResults(results_pb2.SubscribeResultsRequest())
    assert next(stalled).position == FRAMES  # it follows, and then reads no more
    beside = send(server.address, "beside", bitstream)
    print(f"{alone:.0f} frames a second alone, {beside:.0f} beside a stalled subscriber")
    assert beside > alone / 3
    assert len(feed._records) <= BUFFER

    # It reads again: what was on its way, and then why there is no more.
    left: list[results_pb2.SubscribeResultsResponse] = []
    with pytest.raises(grpc.RpcError) as ended:
        left.extend(stalled)
    seen = [one.record.cursor for one in left if one.HasField("record")]
    error = left[-1].error
    assert ended.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    assert error.reason == "slow_subscriber"
    assert error.retryable
    cursor = int(error.details["cursor"])
    assert seen == list(range(FRAMES + 1, cursor + 1))
    assert cursor < 2 * FRAMES

    # From its cursor on it misses nothing.
    with ResultClient(server.address) as client:
        rest = cursors(client.responses(after=cursor), 2 * FRAMES)
    assert seen + rest == list(range(FRAMES + 1, 2 * FRAMES + 1))
    channel.close()


def test_a_client_that_is_cut_off_goes_on_by_itself(
    start_server: Callable[..., ServerThread], bitstream: Bitstream
) -> None:
    server = start_server({"wordy": lambda: Wordy("wordy")}, subscriber_buffer=BUFFER)
    with ResultClient(server.address) as client:
        responses = client.responses(patience_s=60)
        assert next(responses).position == 0
        send(server.address, "s", bitstream)
        assert cursors(responses, FRAMES) == list(range(1, FRAMES + 1))
    assert server.server._results.cut_off >= 1


def test_one_that_reads_no_more_holds_its_place_and_nothing_else_until_it_goes(
    start_server: Callable[..., ServerThread], bitstream: Bitstream
) -> None:
    server = start_server({"wordy": lambda: Wordy("wordy")}, max_subscribers=1, write_timeout_s=1.0)
    channel = open_channel(server.address)
    stub = results_pb2_grpc.ResultServiceStub(channel)
    stalled = stub.SubscribeResults(results_pb2.SubscribeResultsRequest())
    next(stalled)
    send(server.address, "s", bitstream)
    deadline = time.monotonic() + 20
    while server.server._results.cut_off == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with ResultClient(server.address) as client:
        with pytest.raises(FeatherwireError):
            next(client.responses())
        stalled.cancel()
        assert next(client.responses(after=0, patience_s=30)).record.cursor == 1
    channel.close()
