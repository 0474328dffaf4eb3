"""Groups of a bundle whose states are layers of each other: coarsened, refined, with regions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codec.base import Pixels, small_bundle
from edge_client import EdgeSession
from edge_client.spool import Spool, SpoolLimits, SpoolPolicy
from shared.bundle import Bundle
from shared.errors import SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.targets import Region
from tests.support.predicted import (
    Decoder,
    Responses,
    decoding_server,
    greet,
    outcome_of,
    predicting_bundle,
    scene,
)
from tests.support.recorder import Recorder
from tests.support.scripted_server import Requests, ScriptedServer, answer
from tests.support.servers import ServerThread, settings_of

NOWHERE = "127.0.0.1:9"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle("markov-palette", tmp_path_factory.mktemp("layered"))


@pytest.fixture
def server(bundle: Bundle, tmp_path: Path) -> Iterator[ServerThread]:
    tasks = {"record": Recorder}
    server = ServerThread(settings_of(bundle, tmp_path / "data"), tasks)
    yield server
    server.stop()


def large(count: int, *, first: int = 0) -> Iterator[Pixels]:
    return (picture.repeat(4, 0).repeat(4, 1) for picture in scene(count, first=first))


def test_groups_that_a_full_spool_has_made_coarser_are_decoded(
    bundle: Bundle, tmp_path: Path
) -> None:
    decoder = Decoder(bundle)
    limits = SpoolLimits(6400, policy=SpoolPolicy.COARSEN)
    with Spool.open(tmp_path, limits) as spool:
        with EdgeSession(NOWHERE, bundle=bundle, spool=spool, connect_timeout_s=0.1) as session:
            list(session.stream(large(56), state=0))
        counts = spool.stats().counts
        assert counts["coarsened"] > 0
        with (
            decoding_server(decoder) as server,
            EdgeSession(server.address, bundle=bundle, spool=spool) as session,
        ):
            reasons = [result.error and result.error.reason for result in session.flush()]
    assert set(reasons) == {"decoded"}
    assert len(reasons) == 56 - counts.get("dropped_full", 0)
    states = [values.state for values in decoder.values.values()]
    assert max(states) > 0, "coarser than they were put"
    assert len(decoder.predicted) > len(decoder.keys)


def test_an_older_frame_of_a_group_is_refined_while_others_refer_to_it(
    bundle: Bundle, server: ServerThread
) -> None:
    with EdgeSession(server.address, bundle=bundle) as session:
        wishes = {"tasks": ["record"], "refinable": True}
        sent = list(session.stream(large(4), state=3, **wishes))  # type: ignore[arg-type]
        refined = [session.refine(one.sequence, state=1) for one in sent[::-1]]
        later = list(session.stream(large(3, first=4), state=2, **wishes))  # type: ignore[arg-type]
        finest = [session.refine(one.sequence, state=0) for one in later]
        assert session.groups.predicted_frames > 0
    assert [one.error for one in (*sent, *refined, *later, *finest)] == [None] * 14
    assert [one.state for one in refined] == [1] * 4
    assert [one.state for one in finest] == [0] * 3


def test_what_went_out_as_a_key_frame_is_not_refined_with_layers_of_a_predicted_one(
    bundle: Bundle, tmp_path: Path
) -> None:
    """The server that comes back decodes nothing that refers to others."""
    decoder = Decoder(bundle)

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield greet(hello, takes_predicted=number == 1)
        frames = (one.frame for one in requests if one.WhichOneof("message") == "frame")
        for frame in frames:
            if number == 1 and frame.sequence == 3:
                return  # the stream breaks, with nothing acknowledged
            if number > 1:
                yield from answer(frame, frame.sequence, outcome_of(decoder, frame))

    with (
        Spool.open(tmp_path) as spool,
        ScriptedServer(script) as server,
        EdgeSession(server.address, bundle=bundle, spool=spool) as session,
    ):
        list(session.stream(large(3), state=3, refinable=True))
        assert session.groups.predicted_frames == 2
        assert decoder.keys == [1, 2, 3]
        with pytest.raises(SessionError, match="no more is kept of frame 2") as caught:
            session.refine(2, state=1)
    assert caught.value.reason == "not_refinable"


def test_regions_and_budgets_go_with_references(bundle: Bundle, server: ServerThread) -> None:
    region = Region(0.0, 0.0, 0.5, 0.5, 0)
    with EdgeSession(server.address, bundle=bundle, regions=[region]) as session:
        coarse = list(session.stream(large(4), tasks=["record"], state=3))
        fitted = list(session.stream(large(4, first=4), tasks=["record"], max_bytes=300))
        assert session.groups.predicted_frames > 0
    assert [one.error for one in (*coarse, *fitted)] == [None] * 8
    assert all(one.payload_bytes <= 300 for one in fitted)


def test_two_bundles_of_a_frame_have_their_own_references(bundle: Bundle, tmp_path: Path) -> None:
    other = predicting_bundle(tmp_path)
    decoder = Decoder(bundle, other)
    with (
        decoding_server(decoder, accepted=[bundle.id, other.id]) as server,
        EdgeSession(server.address, bundle=bundle, also=[other]) as session,
    ):
        name = other.manifest.name
        both = list(session.stream(large(3), send_with=[name]))
        one = list(session.stream(large(2, first=3)))
        again = list(session.stream(large(2, first=5), send_with=[name]))
    reasons = {result.error and result.error.reason for result in (*both, *one, *again)}
    assert reasons == {"decoded"}
    alone = [at for (at, short_id), values in decoder.values.items()
             if short_id == other.short_id and values.file]  # fmt: skip
    assert alone == [1, 6], "where there was none of it before, it stands alone"
    assert decoder.keys == [1]
