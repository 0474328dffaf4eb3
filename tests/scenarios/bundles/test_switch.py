"""A device that is told to use another bundle does so between two frames, or goes on as before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.fleet.client import FleetClient
from edge_client.rate import RateControl
from edge_client.session import EdgeSession
from edge_client.spool import Spool
from shared.bundle import Bundle
from shared.errors import BudgetError, BundleError, FeatherwireError
from tests.support.fleet import outcome, until, use
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]
Image = NDArray[np.uint8]


@contextmanager
def device(
    address: str, bundle: Bundle, folder: Path, *, spool: bool = True
) -> Iterator[EdgeSession]:
    cache = folder / "cache"
    if not spool:
        with EdgeSession(address, device="cam", bundle=bundle, bundle_cache_dir=cache) as session:
            yield session
        return
    with (
        Spool.open(folder / "spool") as store,
        EdgeSession(
            address, device="cam", bundle=bundle, spool=store, bundle_cache_dir=cache
        ) as session,
    ):
        yield session


def send_until(session: EdgeSession, image: Image, done: Callable[[], object]) -> list[str]:
    """Send photos until ``done``; the bundles that their results are of, each as long as it was."""
    seen: list[str] = []

    def sent() -> bool:
        result = session.send(image, state=4, tasks=["one"])
        assert result.error is None
        if seen[-1:] != [result.bundle_id.hex()]:
            seen.append(result.bundle_id.hex())
        return bool(done())

    until(sent, 60)
    return seen


@pytest.fixture
def server(start_server: Start, other: Bundle) -> ServerThread:
    return start_server({"one": lambda: FixedTask("one")}, bundles=(other.origin,))


@pytest.mark.parametrize("spool", [True, False])
def test_a_running_session_changes_over_between_two_frames(
    server: ServerThread, tiny_bundle: Bundle, other: Bundle, image: Image, tmp_path: Path,
    spool: bool,
) -> None:  # fmt: skip
    before, after = tiny_bundle.short_id.hex(), other.short_id.hex()
    with (
        FleetClient(server.address) as operator,
        device(server.address, tiny_bundle, tmp_path, spool=spool) as session,
    ):
        session.send(image, state=4)
        use(operator, other.id)
        assert send_until(session, image, lambda: outcome(operator) == "done") == [before, after]
        assert session.bundle.id == other.id
        assert (tmp_path / "cache" / f"{other.id}.zip").exists()
        assert [one.bundle_id for one in operator.devices()] == [other.id]
        audit = [(entry.who, entry.action) for entry in operator.audit()]
        assert audit[1:] == [("device cam", "CommandReply")]
        # And back: what is at hand is not fetched, but tried all the same.
        use(operator, tiny_bundle.id)
        assert send_until(session, image, lambda: outcome(operator) == "done") == [after, before]


def test_the_choice_outlives_the_process_and_what_it_was_started_with(
    server: ServerThread, tiny_bundle: Bundle, other: Bundle, image: Image, tmp_path: Path
) -> None:
    with FleetClient(server.address) as operator:
        with device(server.address, tiny_bundle, tmp_path) as session:
            session.send(image, state=4)
            use(operator, other.id)
            send_until(session, image, lambda: outcome(operator) == "done")
        with device(server.address, tiny_bundle, tmp_path) as session:
            assert session.bundle.id == other.id
            assert session.send(image, state=4).bundle_id == other.short_id
    # Without a server it is used too; of a damaged cache the one that was given remains.
    server.stop()
    server.join()
    for damaged, expected in ((False, other), (True, tiny_bundle)):
        if damaged:
            (tmp_path / "cache" / f"{other.id}.zip").write_bytes(b"PK")
        with (
            Spool.open(tmp_path / "spool") as store,
            EdgeSession(
                server.address, device="cam", bundle=tiny_bundle, spool=store,
                bundle_cache_dir=tmp_path / "cache", connect_timeout_s=0.5,
            ) as session,
        ):  # fmt: skip
            assert session.bundle.id == expected.id


def test_frames_in_the_spool_keep_the_bundle_that_they_were_made_with(
    start_server: Start, tiny_bundle: Bundle, other: Bundle, image: Image, tmp_path: Path
) -> None:
    slow = start_server(
        {"one": lambda: FixedTask("one", delay_s=0.05)}, bundles=(other.origin,), credits=1
    )
    with (
        FleetClient(slow.address) as operator,
        device(slow.address, tiny_bundle, tmp_path) as session,
    ):
        session.send(image, state=4)
        use(operator, other.id)
        results = list(session.stream([image] * 150, state=4, tasks=["one"]))
        assert [one.error for one in results] == [None] * 150
        by_sequence = sorted(results, key=lambda one: one.sequence)
        used = [one.bundle_id for one in by_sequence]
        assert used[0] == tiny_bundle.short_id
        assert used[-1] == other.short_id
        assert used == sorted(used, key=lambda one: one == other.short_id), "one change, in order"
        until(lambda: outcome(operator) == "done")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"extractor": b"no network"}, "bad_extractor"),
        ({"palette": b"no palette"}, "bad_arrays"),
    ],
)
def test_a_bundle_that_does_not_open_leaves_the_one_before(
    start_server: Start, remade: Callable[..., Bundle], tiny_bundle: Bundle, image: Image,
    tmp_path: Path, files: dict[str, bytes], reason: str,
) -> None:  # fmt: skip
    broken = remade("broken", **files)
    server = start_server()
    # A server would not serve it; its fleet hands on what another one may.
    with (
        device(server.address, tiny_bundle, tmp_path) as session,
        FleetClient(server.address) as operator,
    ):
        session.send(image, state=4)
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / f"{broken.id}.zip").write_bytes(broken.to_zip())
        errors: list[FeatherwireError | None] = []
        told = threading.Event()

        def done(error: FeatherwireError | None) -> None:
            errors.append(error)
            told.set()

        connection = session._open_connection()
        session._opener.use_bundle(connection.channel, broken.id, done)
        assert told.wait(30)
        assert isinstance(errors[0], BundleError)
        assert errors[0].reason == reason
        assert session.send(image, state=4).bundle_id == tiny_bundle.short_id
        assert list(operator.audit()) == []


def test_a_bundle_that_the_server_cannot_read_is_tried_and_not_used(
    start_server: Start, tiny_bundle: Bundle, remade: Callable[..., Bundle], image: Image,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The device knows it, and the server that commanded it has left; the next one lacks it."""
    strange = remade("strange")
    first = start_server(bundles=(strange.origin,))
    with FleetClient(first.address) as operator, device(first.address, tiny_bundle, tmp_path):
        until(lambda: [one for one in operator.devices() if one.online])
        use(operator, strange.id)
        until(lambda: (tmp_path / "cache" / f"{strange.id}.zip").exists(), 30)
    first.stop()
    first.join()
    second = start_server(data=tmp_path / "data-0")  # the same fleet, with one bundle less
    with (
        FleetClient(second.address) as operator,
        device(second.address, tiny_bundle, tmp_path) as session,
    ):
        seen = set()

        def refused() -> bool:
            seen.add(session.send(image, state=4).bundle_id)
            return outcome(operator) != "pending"

        until(refused, 30)
        assert outcome(operator) == "bundle_mismatch"
        assert seen == {tiny_bundle.short_id}, "no frame was lost to it"
        (told,) = [entry.what for entry in operator.audit() if entry.action == "CommandReply"]
        assert "bundle_mismatch" in told


@pytest.mark.parametrize("bandwidth", [None, 1e9])
def test_a_state_that_only_the_bundle_before_has_becomes_the_coarsest(
    start_server: Start, feature_bundle: Bundle, tiny_bundle: Bundle, image: Image, tmp_path: Path,
    bandwidth: float | None,
) -> None:  # fmt: skip
    address = start_server(bundles=(feature_bundle.origin,)).address

    def sent(store: Spool) -> tuple[bytes, int]:
        with EdgeSession(
            address, device="cam", bundle=tiny_bundle, spool=store,
            control=RateControl(bandwidth), bundle_cache_dir=tmp_path / "cache",
        ) as session:  # fmt: skip
            until(lambda: session.send(image, state=4) and outcome(operator) == "done", 30)
            result = session.send(image, state=4)
            return result.bundle_id, result.state

    with Spool.open(tmp_path / "spool") as store, FleetClient(address) as operator:
        with EdgeSession(address, device="cam", bundle=tiny_bundle, spool=store):
            use(operator, feature_bundle.id)
        assert sent(store) == (feature_bundle.short_id, 3)
        assert sent(store) == (feature_bundle.short_id, 3)  # a restart changes nothing of it
    with (
        EdgeSession(address, bundle=feature_bundle) as session,
        pytest.raises(BudgetError) as caught,
    ):
        session.send(image, state=4)
    assert caught.value.reason == "unknown_state"


def test_ids_that_no_server_holds_are_refused_at_once(
    server: ServerThread, tiny_bundle: Bundle, image: Image, tmp_path: Path
) -> None:
    with (
        FleetClient(server.address) as operator,
        device(server.address, tiny_bundle, tmp_path) as session,
    ):
        session.send(image, state=4)
        with pytest.raises(BundleError, match="does not take") as caught:
            use(operator, "0" * 64)
        assert caught.value.reason == "not_found"
        assert list(operator.commands()) == []
