"""Opening a link to a server: channel, Hello, and a bundle on which both ends agree."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from edge_client.session.bundles import default_cache_dir, obtain_bundle
from edge_client.session.channel import TlsClientFiles, open_channel, wait_until_ready
from edge_client.session.commands import TakeSetting
from edge_client.session.connection import Connection
from edge_client.session.describe import Describer
from edge_client.session.framing import Framer
from edge_client.session.identity import package_version
from edge_client.session.kept import KeptFrames
from edge_client.session.listener import Listener
from shared.bundle import Bundle, packaged_bundle_of
from shared.errors import BundleError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.requests import Hello

if TYPE_CHECKING:
    from edge_client.encoder import EdgeEncoder

BundleSource = Bundle | str | Path


@dataclass(frozen=True, slots=True)
class Link:
    """An open stream to a server, and what makes frames for it."""

    channel: grpc.Channel
    connection: Connection
    framer: Framer

    def close(self, timeout_s: float = 10.0) -> None:
        """End the stream; frames in flight have ``timeout_s`` to come back."""
        self.connection.close(timeout_s)
        self.channel.close()


@dataclass(frozen=True, slots=True)
class _Mine:
    """The bundles that were given, loaded: the first one, and others with the name of each."""

    bundle: Bundle | None
    also: tuple[Bundle, ...]
    named: dict[str, Bundle]


class Opener:
    """Opens links, one after another, always as the same client."""

    def __init__(
        self,
        server: str,
        device: str,
        *,
        bundle: BundleSource | None,
        encoder: EdgeEncoder | None,
        also: Iterable[BundleSource],
        tasks: tuple[str, ...] | None,
        threads: int,
        tls: TlsClientFiles | None,
        timeout_s: float,
        deadline_s: float | None,
        bundle_cache_dir: Path | None,
    ) -> None:
        """As for ``EdgeSession``."""
        self.server = server
        self.device = device
        self.tasks = tasks
        self._given_bundle = encoder.bundle if encoder is not None else bundle
        self._given_also = tuple(also)
        self._encoder = encoder
        self._threads = threads
        self._tls = tls
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._bundle_cache_dir = bundle_cache_dir
        self._loaded: _Mine | None = None
        self._describer: Describer | None = None

    def open(
        self,
        session: str,
        kept: KeptFrames,
        *,
        last_result_seen: int = 0,
        listener: Listener | None = None,
        take_setting: TakeSetting | None = None,
    ) -> Link:
        """Connect, and agree on a bundle.

        Raises ``SessionError`` (unreachable, refused, bundle_mismatch, unsupported_version, ...)
        and ``BundleError`` when the bundle cannot be had.
        """
        mine = self._mine()
        channel = open_channel(self.server, self._tls)
        connection: Connection | None = None
        try:
            wait_until_ready(channel, self.server, self._timeout_s, tls=self._tls is not None)
            hello = Hello(
                device=self.device,
                session=session,
                bundle_id=mine.bundle.id if mine.bundle is not None else None,
                can_switch_bundle=self._given_bundle is None,
                client_version=package_version(),
                also_bundle_ids=tuple(bundle.id for bundle in mine.also),
                last_result_seen=last_result_seen,
                takes_batches=True,
            )
            connection = Connection(
                channel,
                self.server,
                hello,
                kept=kept,
                timeout_s=self._timeout_s,
                listener=listener,
                take_setting=take_setting,
            )
            return Link(channel, connection, self._framer(channel, connection.welcome))
        except BaseException:
            if connection is not None:
                connection.close()
            channel.close()
            raise

    def offline(self, last_bundle_id: str | None) -> Framer:
        """What makes frames while no server is there to be asked.

        last_bundle_id: the one on which a server agreed before, when it is at hand. Raises
        ``BundleError``.
        """
        mine = self._mine()
        bundle = mine.bundle
        if bundle is None and last_bundle_id is not None:
            bundle = _packaged(last_bundle_id) or self._cached(last_bundle_id)
        describer = self._describer_of(bundle or Bundle.load())
        return self._framer_of(describer, ingest_pb2.ServerSettings(frame_deadline_s=30.0))

    def _mine(self) -> _Mine:
        if self._loaded is None:
            given = self._given_bundle
            also = [_load(source) for source in self._given_also]
            named = {
                str(source): bundle
                for source, bundle in zip(self._given_also, also, strict=True)
                if not isinstance(source, Bundle)
            }
            self._loaded = _Mine(None if given is None else _load(given), tuple(also), named)
        return self._loaded

    def _framer(self, channel: grpc.Channel, welcome: ingest_pb2.Welcome) -> Framer:
        mine = self._mine()
        accepted = welcome.accepted_bundle_ids or [welcome.bundle_id]
        bundle = mine.bundle
        if bundle is None or bundle.id not in accepted:
            bundle = _packaged(welcome.bundle_id) or obtain_bundle(
                channel, self.server, welcome.bundle_id, cache_dir=self._bundle_cache_dir
            )
        for other in mine.also:
            if other.id not in accepted:
                raise _refused(other, self.server)
        return self._framer_of(self._describer_of(bundle), welcome.settings)

    def _describer_of(self, bundle: Bundle) -> Describer:
        """The one that was made before, with its encoders, unless the bundle is another one."""
        if self._describer is None or self._describer.bundle.id != bundle.id:
            shared = self._encoder
            if shared is not None and shared.bundle.id != bundle.id:
                shared = None
            self._describer = Describer(
                bundle, self._mine().also, encoder=shared, threads=self._threads
            )
        return self._describer

    def _framer_of(self, describer: Describer, settings: ingest_pb2.ServerSettings) -> Framer:
        return Framer(
            describer,
            settings,
            also=self._mine().named,
            tasks=self.tasks,
            deadline_s=self._deadline_s,
        )

    def _cached(self, bundle_id: str) -> Bundle | None:
        with suppress(BundleError, OSError):
            folder = self._bundle_cache_dir or default_cache_dir()
            found = Bundle.load(folder / f"{bundle_id}.zip")
            return found if found.id == bundle_id else None
        return None


def _packaged(bundle_id: str) -> Bundle | None:
    """The bundle of that id, where it comes with Featherwire and is not damaged."""
    with suppress(BundleError, ValueError):
        found = packaged_bundle_of(bytes.fromhex(bundle_id[:16]))
        return found if found is not None and found.id == bundle_id else None
    return None


def _load(source: BundleSource) -> Bundle:
    return source if isinstance(source, Bundle) else Bundle.load(source)


def _refused(bundle: Bundle, server: str) -> SessionError:
    return SessionError(
        "bundle_mismatch",
        f"{server} does not take bundle {bundle.manifest.name} ({bundle.id})",
        bundle_id=bundle.id,
    )
