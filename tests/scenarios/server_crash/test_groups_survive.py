"""kill -9 of servers and workers in the middle of groups of pictures: all is decoded right."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_server.consumers import ResultClient
from codec.base import open_cloud, small_bundle
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.wire import PictureRequest
from tests.support.crashes import Servers
from tests.support.predicting import coded, moving
from tests.support.raw_client import RawClient

DEVICE, SESSION = "camera", "street"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return small_bundle("null", tmp_path / "bundle")


@pytest.fixture
def servers(bundle: Bundle, variables: dict[str, str], tmp_path: Path) -> Iterator[Servers]:
    servers = Servers(bundle, variables, tmp_path)
    yield servers
    servers.close()


@pytest.mark.timeout(300)
def test_each_frame_has_one_result_and_stands_alone_when_it_is_asked_for(
    servers: Servers, bundle: Bundle
) -> None:
    rng = random.Random("groups")
    frames = coded(bundle, moving(40), keys=(0, 25))
    arguments = ("--workers", "1")
    servers.start(*arguments)
    for end in (9, 18, 33, 40):
        sent = streamed(servers.address, frames, end)
        assert sent >= end
        if end == 18:
            servers.kill_worker(rng)
        elif end < 40:
            time.sleep(rng.uniform(0, 0.05))
            servers.kill()
            servers.start(*arguments)
    codec = open_cloud(bundle)
    with ResultClient(servers.address) as client:
        watched = client.watch(after=0, patience_s=60)
        results = [next(watched) for _ in frames]
        assert sorted(one.sequence for one in results) == list(range(1, 41))
        assert [one.error for one in results] == [None] * 40
        latents = None
        for sequence, frame in enumerate(frames, 1):
            latents = codec.decode(frame, reference=latents)
            alone, _ = client.frame((DEVICE, SESSION, sequence))
            assert alone.reference is None
            assert codec.decode(alone).checksum() == latents.checksum()
        _, picture = client.frame((DEVICE, SESSION, 24), picture=PictureRequest())
        assert picture is not None


def streamed(address: str, frames: list[Bitstream], end: int) -> int:
    """Send what the server does not have, up to ``end``, until all of it is acknowledged."""
    client = RawClient(address)
    welcome = client.hello(device=DEVICE, session=SESSION, predicts=True)
    done: int = welcome.resume_after_sequence
    assert welcome.needs_key_frame == (done == 0)
    for sequence in range(done + 1, end + 1):
        client.wait_for_credits(sequence - done - welcome.credits)
        client.frame(sequence, frames[sequence - 1], picture=PictureRequest())
    client.wait_until(lambda: len(client.all("ack")) >= end - done)
    assert not client.all("command")
    client.close()
    acknowledged: list[int] = [one.sequence for one in client.all("ack")]
    return max([done, *acknowledged])
