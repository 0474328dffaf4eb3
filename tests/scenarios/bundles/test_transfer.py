"""A bundle's transfer that is cut goes on where it was; what was not announced is refused."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from edge_client.bundles import BundleCache
from shared.bundle import Bundle
from shared.errors import BundleError, SessionError
from shared.proto.featherwire.v1 import bundles_pb2, bundles_pb2_grpc
from tests.support.proxy import Proxy
from tests.support.servers import ServerThread

Start = Callable[..., ServerThread]
Chunks = Callable[[bundles_pb2.GetBundleRequest], Iterator[bundles_pb2.GetBundleResponse]]


class Handing(bundles_pb2_grpc.BundleServiceServicer):
    """Hands over what a test says, and notes from where it was asked to."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self.offsets: list[int] = []

    def GetBundle(
        self, request: bundles_pb2.GetBundleRequest, context: Any
    ) -> Iterator[bundles_pb2.GetBundleResponse]:
        self.offsets.append(request.offset_bytes)
        yield from self._chunks(request)


@contextmanager
def handing(chunks: Chunks) -> Iterator[tuple[Handing, grpc.Channel]]:
    service, server = Handing(chunks), grpc.server(ThreadPoolExecutor(2))
    bundles_pb2_grpc.add_BundleServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield service, channel
    finally:
        server.stop(0).wait()


def pieces(
    bundle: Bundle, data: bytes | None = None, *, size: int = 200_000, **info: Any
) -> Chunks:
    """A bundle's zip (or other bytes) in chunks, as a server would hand it over."""
    content = bundle.to_zip() if data is None else data
    about = {
        "bundle_id": bundle.id,
        "zip_bytes": len(content),
        "zip_sha256": hashlib.sha256(content).hexdigest(),
    }
    described = bundles_pb2.BundleInfo(**(about | info))

    def chunks(
        request: bundles_pb2.GetBundleRequest,
    ) -> Iterator[bundles_pb2.GetBundleResponse]:
        first: bundles_pb2.BundleInfo | None = described
        for start in range(request.offset_bytes, len(content), size):
            yield bundles_pb2.GetBundleResponse(
                info=first, offset_bytes=start, data=content[start : start + size]
            )
            first = None

    return chunks


def test_through_connections_that_are_cut_next_to_no_byte_comes_twice(
    start_server: Start, other: Bundle, tmp_path: Path
) -> None:
    server = start_server(bundles=(other.origin,))
    with grpc.insecure_channel(server.address) as channel:
        stub = bundles_pb2_grpc.BundleServiceStub(channel)
        listed = stub.ListBundles(bundles_pb2.ListBundlesRequest()).bundles
    (whole,) = [info.zip_bytes for info in listed if info.bundle_id == other.id]
    kept = [0]
    with Proxy(server.address) as proxy:
        for _ in range(3):
            proxy.cut_at = proxy.received + 700_000
            with grpc.insecure_channel(proxy.address) as channel, pytest.raises(SessionError):
                BundleCache(tmp_path).obtain(channel, "server", other.id, must_keep=True)
            kept.append(part_bytes(tmp_path))
        before = proxy.received
        with grpc.insecure_channel(proxy.address) as channel:
            found = BundleCache(tmp_path).obtain(channel, "server", other.id, must_keep=True)
    assert found.id == other.id
    assert kept == sorted(set(kept)), "each time some more"
    assert kept[-1] < whole
    # What was on its way when the line was cut comes again; of what was here nothing does.
    assert whole - kept[-1] <= proxy.received - before <= 1.03 * (whole - kept[-1])
    assert part_bytes(tmp_path) == 0


def part_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.part"))


def test_a_transfer_goes_on_at_the_offset_of_what_is_on_the_disk(
    other: Bundle, tmp_path: Path
) -> None:
    whole = pieces(other)
    sent: list[int] = []

    def once_cut(
        request: bundles_pb2.GetBundleRequest,
    ) -> Iterator[bundles_pb2.GetBundleResponse]:
        for number, chunk in enumerate(whole(request)):
            if not request.offset_bytes and number == 3:
                raise ConnectionAbortedError("as if the server had died")
            sent.append(len(chunk.data))
            yield chunk

    with handing(once_cut) as (service, channel):
        with pytest.raises(SessionError):
            BundleCache(tmp_path).obtain(channel, "server", other.id)
        assert part_bytes(tmp_path) == 600_000
        # As another process, after a kill.
        assert BundleCache(tmp_path).obtain(channel, "server", other.id).id == other.id
        assert service.offsets == [0, 600_000]
    assert sum(sent) == len(other.to_zip())


def test_a_part_that_a_power_cut_has_damaged_is_begun_again(other: Bundle, tmp_path: Path) -> None:
    data = other.to_zip()
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / f"{other.id}-{sha256}.part").write_bytes(bytes(500_000))
    with handing(pieces(other)) as (service, channel):
        assert BundleCache(tmp_path).obtain(channel, "server", other.id).id == other.id
        assert service.offsets == [500_000, 0]


def test_a_part_of_another_zip_is_begun_again(other: Bundle, tmp_path: Path) -> None:
    (tmp_path / f"{other.id}-{'0' * 64}.part").write_bytes(bytes(1000))
    with handing(pieces(other)) as (service, channel):
        assert BundleCache(tmp_path).obtain(channel, "server", other.id).id == other.id
        assert service.offsets == [1000, 0]


def bomb() -> bytes:
    """A zip of a megabyte that unpacks to more than a bundle may hold."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("manifest.json", "w", force_zip64=True) as file,
    ):
        for _ in range(600):
            file.write(bytes(2**20))
    return buffer.getvalue()


def gap(bundle: Bundle) -> Chunks:
    whole = pieces(bundle)

    def chunks(
        request: bundles_pb2.GetBundleRequest,
    ) -> Iterator[bundles_pb2.GetBundleResponse]:
        for number, chunk in enumerate(whole(request)):
            if number != 2:
                yield chunk

    return chunks


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        (lambda one, two: pieces(two, bundle_id=one.id), "forged_bundle"),
        (lambda one, two: pieces(one, zip_sha256="0" * 64), "bad_transfer"),
        (lambda one, two: pieces(one, zip_sha256="../../etc"), "bad_transfer"),
        (lambda one, two: pieces(one, zip_bytes=1000), "bad_transfer"),
        (lambda one, two: pieces(one, zip_bytes=2**40), "limit_exceeded"),
        (lambda one, two: gap(one), "bad_transfer"),
        (lambda one, two: pieces(one, b"PK no zip at all" * 10), "bad_zip"),
        (lambda one, two: pieces(one, bomb()), "limit_exceeded"),
        (lambda one, two: lambda request: iter(()), "bad_transfer"),
    ],
)
def test_what_is_not_what_was_announced_is_refused(
    other: Bundle, tiny_bundle: Bundle, tmp_path: Path, chunks: Callable[..., Chunks], reason: str
) -> None:
    with handing(chunks(other, tiny_bundle)) as (_, channel):
        for _ in range(2):  # nothing is left that a second try would trust
            with pytest.raises(BundleError) as caught:
                BundleCache(tmp_path).obtain(channel, "server", other.id, must_keep=True)
            assert caught.value.reason == reason
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_or_costs_only_the_cache(other: Bundle, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with handing(pieces(other)) as (_, channel):
        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))
        try:
            with pytest.raises(BundleError) as caught:
                BundleCache(tmp_path).obtain(channel, "server", other.id, must_keep=True)
            assert caught.value.reason == "disk_full"
            assert BundleCache(tmp_path).obtain(channel, "server", other.id).id == other.id
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_keeps_within_its_bytes_and_what_was_used_last(
    remade: Callable[..., Bundle], tmp_path: Path
) -> None:
    made = [remade(name) for name in ("a", "bb", "ccc")]
    size = len(made[0].to_zip())
    cache = BundleCache(tmp_path, max_bytes=int(2.5 * size))
    for age, bundle in enumerate(made):
        with handing(pieces(bundle)) as (_, channel):
            cache.obtain(channel, "server", bundle.id)
        os.utime(tmp_path / f"{bundle.id}.zip", (age, age))
        if age == 1:
            assert cache.find(made[0].id) is not None  # that is: used
    assert cache.find(made[1].id) is None
    assert cache.find(made[0].id) is not None
    assert cache.find(made[2].id) is not None


def test_two_processes_may_fetch_the_same_bundle(other: Bundle, tmp_path: Path) -> None:
    cache = BundleCache(tmp_path)
    with (
        handing(pieces(other)) as (service, channel),
        cache._part(other.id, must_keep=True) as part,
    ):
        part.begin(hashlib.sha256(other.to_zip()).hexdigest())
        part.append(other.to_zip()[:1000])
        assert BundleCache(tmp_path).obtain(channel, "server", other.id).id == other.id
        assert service.offsets == [0]
        assert part_bytes(tmp_path) == 1000
