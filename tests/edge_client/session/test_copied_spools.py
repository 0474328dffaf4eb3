"""Spools that were copied to a second device, or put back: frames of one number are not one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_server.consumers import ResultClient
from codec.base import Pixels, open_cloud, small_bundle
from edge_client import EdgeSession
from edge_client.encoder import EdgeEncoder
from edge_client.session import FrameResult
from edge_client.spool import Spool
from shared.bundle import Bundle
from shared.wire.features import parse_features
from tests.support.predicted import numbered, predicting_bundle, scene
from tests.support.raw_client import RawClient
from tests.support.recorder import Reader
from tests.support.servers import ServerThread, settings_of

NOWHERE = "127.0.0.1:9"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """One whose frames are whole, and one of several layers."""
    folder = tmp_path_factory.mktemp("bundles")
    return predicting_bundle(folder / "null"), small_bundle("markov-palette", folder / "layered")


@pytest.fixture
def server(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> Iterator[ServerThread]:
    more = {"bundles": (bundles[1].origin,)}
    server = ServerThread(settings_of(bundles[0], tmp_path / "data", **more), {"record": Reader})
    yield server
    server.stop()
    server.join()


def send(
    address: str, bundle: Bundle, folder: Path, pictures: Iterable[Pixels], **more: Any
) -> list[FrameResult]:
    """What a process that has this spool sends, and what comes back; all of it with a server."""
    with (
        Spool.open(folder) as spool,
        EdgeSession(
            address, device="camera", bundle=bundle, spool=spool,
            connect_timeout_s=0.1 if address == NOWHERE else 60,
        ) as session,
    ):  # fmt: skip
        return list(session.stream(pictures, tasks=["record"], **more))


def shown(results: Iterable[FrameResult]) -> list[int]:
    """The numbers that the server saw, in the order of the frames."""
    found = []
    for one in sorted(results, key=lambda one: one.sequence):
        assert one.error is None, one.error
        assert one.analysis is not None
        found.append(one.analysis.tasks["record"].detections[0].class_id)
    return found


@pytest.mark.parametrize("more_of_the_first", [1, 2, 3])
def test_frames_of_a_copy_are_not_taken_for_those_of_the_first(
    server: ServerThread, bundles: tuple[Bundle, Bundle], tmp_path: Path, more_of_the_first: int
) -> None:
    """Whichever has sent more meanwhile."""
    bundle, first, copy = bundles[0], tmp_path / "first", tmp_path / "copy"
    address = server.address
    assert shown(send(address, bundle, first, map(numbered, (1, 2, 3)))) == [1, 2, 3]
    shutil.copytree(first, copy)
    others = range(4, 4 + more_of_the_first)
    assert shown(send(address, bundle, first, map(numbered, others))) == list(others)
    kept = send(NOWHERE, bundle, copy, map(numbered, (14, 15)))
    assert {one.error.reason for one in kept if one.error} == {"spooled"}
    assert shown(send(address, bundle, copy, map(numbered, (16, 17)))) == [14, 15, 16, 17]
    # And the first goes on as if there were no other.
    assert shown(send(address, bundle, first, [numbered(9)])) == [9]


def test_both_may_be_there_at_once(
    server: ServerThread, bundles: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    bundle, first, copy = bundles[0], tmp_path / "first", tmp_path / "copy"
    assert shown(send(server.address, bundle, first, [numbered(1)])) == [1]
    shutil.copytree(first, copy)

    def both() -> Iterator[Pixels]:
        yield numbered(2)
        assert shown(send(server.address, bundle, copy, map(numbered, (12, 13, 14)))) == [
            12, 13, 14,
        ]  # fmt: skip
        yield numbered(3)
        yield numbered(4)

    assert shown(send(server.address, bundle, first, both())) == [2, 3, 4]


def test_a_frame_that_differs_only_in_finer_layers_is_not_a_reference_for_those_of_a_copy(
    server: ServerThread, bundles: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    """Predicted frames know their reference by its coarsest layer, which is the same here."""
    bundle, first, copy = bundles[1], tmp_path / "first", tmp_path / "copy"
    codec = open_cloud(bundle)
    picture = next(scene(1)).repeat(4, 0).repeat(4, 1)
    similar = alike(bundle, picture)
    pictures = [picture] * 2
    with Spool.open(first) as spool:
        session = spool.session
    send(server.address, bundle, first, pictures[:1], state=0)
    shutil.copytree(first, copy)
    send(server.address, bundle, first, pictures, state=0)
    send(NOWHERE, bundle, copy, [similar] * 3, state=0)
    with Spool.open(copy) as spool:
        values, expected = None, []
        for message in spool.chain(4):
            values = codec.decode(parse_features(message.features[0]), reference=values)
            expected.append(values.checksum())
        assert len(expected) == 3, "the last of these refers to the frame that the server has"
    results = send(server.address, bundle, copy, [], state=0)
    assert [one.error for one in results] == [None] * 3
    with Spool.open(copy) as spool:
        assert spool.session != session
        own = spool.session
    with ResultClient(server.address) as client:
        kept = [client.frame(("camera", own, sequence))[0] for sequence in (1, 2, 3)]
    assert [codec.decode(one).checksum() for one in kept] == expected


def alike(bundle: Bundle, picture: Pixels) -> Pixels:
    """A picture that differs in finer layers alone."""
    encoder, codec = EdgeEncoder(bundle), open_cloud(bundle)

    def values(pixels: Pixels) -> Any:
        return codec.decode(encoder.encode(pixels))

    one = values(picture)
    for seed in range(200):
        noise = np.random.default_rng(seed).integers(-1 - seed // 10, 2 + seed // 10, picture.shape)
        other = np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8)
        two = values(other)
        same = codec.reference_checksum(one) == codec.reference_checksum(two)
        if same and one.checksum() != two.checksum():
            return other
    raise AssertionError("no such picture")


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_a_device_that_knows_nothing_of_it_is_answered_as_before(
    server: ServerThread, bundles: tuple[Bundle, Bundle]
) -> None:
    """The first frame of a number stands for all."""
    bitstream = EdgeEncoder(bundles[0]).encode(numbered(1))
    client = RawClient(server.address)
    client.hello()
    client.frame(1, bitstream, captured_at=_at(1))
    client.wait_for("result")
    client.frame(1, bitstream, captured_at=_at(2))
    assert client.wait_for("ack", 2)[1].duplicate
    client.close()
    client = RawClient(server.address)
    client.hello(renews=True)
    assert client.wait_for("welcome")[0].resume_captured_at.seconds == 1
    client.frame(1, bitstream, captured_at=_at(1))
    assert client.wait_for("ack")[0].duplicate
    client.frame(1, bitstream, captured_at=_at(2))
    assert client.ended.wait(20)
    assert client.all("error")[0].reason == "another_frame"
    client.close()
