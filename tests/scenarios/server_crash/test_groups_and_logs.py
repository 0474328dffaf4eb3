"""Groups of pictures whose server has lost its log, or forgotten the beginning of a group."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cloud_server.consumers import ResultClient
from codec.base import Pixels, open_cloud, open_edge
from edge_client import EdgeSession
from edge_client.encoder import EdgeEncoder
from edge_client.session import FrameResult
from edge_client.spool import Spool
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from tests.support.predicted import number_of, numbered, predicting_bundle
from tests.support.proxy import Proxy
from tests.support.raw_client import RawClient
from tests.support.recorder import Reader, Recorder
from tests.support.servers import ServerThread, settings_of


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return predicting_bundle(tmp_path_factory.mktemp("null"))


class Place:
    """One server after the other, at one address."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._stack = ExitStack()
        self._server: ServerThread | None = None
        self._proxy: Proxy | None = None

    @property
    def address(self) -> str:
        assert self._proxy is not None
        return self._proxy.address

    def begin(self, data: Path, task: type = Reader, **settings: Any) -> ServerThread:
        """A server with the log in this folder, in the place of the one that there was."""
        self.end()
        server = ServerThread(settings_of(self._bundle, data, **settings), {"record": task})
        self._server = server
        if self._proxy is None:
            self._proxy = self._stack.enter_context(Proxy(server.address))
        self._proxy.target = server.address
        self._proxy.refusing = False
        return server

    def end(self) -> None:
        if self._server is not None:
            assert self._proxy is not None
            self._proxy.refusing = True
            self._proxy.cut()
            self._server.stop()
            self._server.join()
            self._server = None

    def close(self) -> None:
        self.end()
        self._stack.close()


@pytest.fixture
def place(bundle: Bundle) -> Iterator[Place]:
    place = Place(bundle)
    yield place
    place.close()


def shown(results: Iterable[FrameResult]) -> list[int]:
    """The numbers that servers saw in the frames."""
    found = []
    for one in results:
        assert one.error is None, one.error
        assert one.analysis is not None
        found.append(one.analysis.tasks["record"].detections[0].class_id)
    return found


def test_a_group_goes_on_at_a_server_that_has_lost_its_log(
    place: Place, bundle: Bundle, tmp_path: Path
) -> None:
    place.begin(tmp_path / "one")
    results: list[FrameResult] = []
    with (
        Spool.open(tmp_path / "spool") as spool,
        EdgeSession(
            place.address, device="camera", bundle=bundle, spool=spool, connect_timeout_s=60
        ) as session,
    ):
        results += session.stream(map(numbered, range(1, 5)), tasks=["record"])
        for again in range(1, 4):
            place.begin(tmp_path / f"empty-{again}")
            first = 4 * again + 1
            results += session.stream(map(numbered, range(first, first + 4)), tasks=["record"])
        own = spool.session
        # One group for the device: what the new servers lack was coded again for them.
        assert (session.groups.key_frames, session.groups.predicted_frames) == (1, 15)
    assert shown(results) == list(range(1, 17))
    codec = open_cloud(bundle)
    with ResultClient(place.address) as client:
        assert [one.sequence for one in client.records()] == [13, 14, 15, 16]
        for sequence in range(13, 17):
            alone, _ = client.frame(("camera", own, sequence))
            assert number_of(codec.decode(alone).photo) == sequence


def test_a_group_goes_on_though_its_beginning_was_forgotten(
    place: Place, bundle: Bundle, tmp_path: Path
) -> None:
    # Long enough for a device on a busy machine to have its results first.
    forgetful = {"keep_days": 3 / 86_400, "keep_session_days": 1.0}
    server = place.begin(tmp_path / "log", **forgetful)
    server.server.retention._every_s = 0.05
    results: list[FrameResult] = []

    def pictures(first: int) -> Iterator[Pixels]:
        yield from map(numbered, range(first, first + 3))

    with (
        Spool.open(tmp_path / "spool") as spool,
        EdgeSession(
            place.address, device="camera", bundle=bundle, spool=spool, connect_timeout_s=60
        ) as session,
    ):
        for visit in range(4):
            results += session.stream(pictures(3 * visit + 1), tasks=["record"])
            wait_until_forgotten(place.address, 3 * visit + 3)
            if visit % 2:  # and what was in memory
                server = place.begin(tmp_path / "log", **forgetful)
                server.server.retention._every_s = 0.05
    assert shown(results) == list(range(1, 13))


def wait_until_forgotten(address: str, cursor: int) -> None:
    """All results up to there, as far as any is."""
    until = time.monotonic() + 120
    with ResultClient(address) as client:
        while any(one.cursor < cursor for one in client.records()):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_session_changes_over_to_an_older_device_and_back(
    place: Place, bundle: Bundle, tmp_path: Path
) -> None:
    """As when a release is taken back: its frames are of format 3, and each stands alone."""
    recorder = Recorder(number_of)
    place.begin(tmp_path / "log", task=lambda: recorder)  # type: ignore[arg-type]
    encoder, codec = EdgeEncoder(bundle), open_edge(bundle)
    values = None
    frames: list[Bitstream] = []
    for number in range(1, 7):
        older = number in (3, 4)
        reference = None if older else values
        frames.append(
            encoder.encode(numbered(number), version=3)
            if older
            else codec.encode(numbered(number), reference=reference)
        )
        values = codec.decode(frames[-1], reference=reference)
    assert [one.reference is None for one in frames] == [True, False, True, True, False, False]
    of_new = {"predicts": True, "renews": True, "format_versions": (3, 4)}
    for sequences, hello in (((1, 2), of_new), ((3, 4), {}), ((5, 6), of_new)):
        client = RawClient(place.address)
        welcome = client.hello(**hello)
        assert welcome.resume_after_sequence == sequences[0] - 1
        assert not welcome.needs_key_frame or sequences[0] == 1 or not hello
        for sequence in sequences:
            client.frame(sequence, frames[sequence - 1], tasks=("record",))
        results = client.wait_for("result", sequences[-1])  # those of before are told again
        assert {one.sequence for one in results} == set(range(1, sequences[-1] + 1))
        assert not any(one.outcome.HasField("error") for one in results)
        client.close()
    assert recorder.numbers == [1, 2, 3, 4, 5, 6]
