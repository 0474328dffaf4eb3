"""Opening a link to a server: channel, Hello, and a bundle on which both ends agree."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from codec import open_edge
from edge_client.session.bundles import BundleCache
from edge_client.session.channel import TlsClientFiles, open_channel, wait_until_ready
from edge_client.session.connection import Connection
from edge_client.session.describe import Describer
from edge_client.session.framing import Framer
from edge_client.session.identity import package_version
from edge_client.session.kept import KeptFrames
from edge_client.session.listener import Listener
from edge_client.session.switch import BundleSwitch, Done, Keep
from shared.bundle import Bundle, packaged_bundle_of
from shared.errors import BundleError, FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.targets import Regions
from shared.wire.commands import Setting
from shared.wire.requests import Hello

if TYPE_CHECKING:
    from edge_client.encoder import EdgeEncoder

BundleSource = Bundle | str | Path

TakeSettingBy = Callable[[grpc.Channel, Setting, Done], None]
"""``TakeSetting``, told also by which channel the command came."""


def keep_nothing(name: str, value: Any) -> None:
    """Keeps nothing over restarts."""


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
        regions: Regions = (),
        keep: Keep = keep_nothing,
        chosen_bundle_id: str | None = None,
        bundle_trials: dict[str, int] | None = None,
    ) -> None:
        """As for ``EdgeSession``. keep: of settings, over restarts; chosen_bundle_id and
        bundle_trials are what was kept as ``chosen_bundle`` and ``bundle_trials``."""
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
        self.regions = regions
        self._cache = BundleCache(bundle_cache_dir)
        self.switch = BundleSwitch(self._obtained, self._new_describer, keep, bundle_trials)
        self.switch.chosen = chosen_bundle_id
        self._loaded: _Mine | None = None
        self._describer: Describer | None = None
        self._found: dict[bytes, Bundle | None] = {}

    def open(
        self,
        session: str,
        kept: KeptFrames,
        *,
        last_result_seen: int = 0,
        listener: Listener | None = None,
        take_setting: TakeSettingBy | None = None,
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
                bundle_id=self.switch.chosen or (mine.bundle.id if mine.bundle else None),
                can_switch_bundle=self._given_bundle is None or self.switch.chosen is not None,
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
                take_setting=None if take_setting is None else partial(take_setting, channel),
                outcome=self.switch.outcome,
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
        chosen = self.switch.chosen
        if self.switch.describer is None and chosen and (found := self._at_hand(chosen)):
            self.switch.describer = self._new_describer(found)
        describer = self.switch.describer
        if describer is None:
            bundle = mine.bundle
            if bundle is None and last_bundle_id is not None:
                bundle = self._at_hand(last_bundle_id)
            describer = self._describer_of(bundle or Bundle.load())
        return self._framer_of(describer, ingest_pb2.ServerSettings(frame_deadline_s=30.0))

    def use_bundle(self, channel: grpc.Channel, bundle_id: str, done: Done) -> None:
        """Change over to a bundle, or say why not; see ``BundleSwitch``."""
        current = self._current
        self.switch.take(channel, bundle_id, None if current is None else current.id, done)

    def check_regions(self) -> None:
        """Raise BundleError ``regions_unsupported`` when the bundle in use knows none."""
        if self._current is not None:
            open_edge(self._current).check_regions()

    @property
    def _current(self) -> Bundle | None:
        """The bundle in use, once there is one."""
        describer = self.switch.describer or self._describer
        return None if describer is None else describer.bundle

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
        for other in mine.also:
            if other.id not in accepted:
                raise _refused(other, self.server)
        describer = self._chosen_describer(channel, accepted)
        if describer is None:
            bundle = mine.bundle
            if bundle is None or bundle.id not in accepted:
                if bundle is not None:
                    raise _refused(bundle, self.server)
                bundle = self._obtained(channel, welcome.bundle_id, must_keep=False)
            describer = self._describer_of(bundle)
        return self._framer_of(describer, welcome.settings)

    def _chosen_describer(self, channel: grpc.Channel, accepted: Iterable[str]) -> Describer | None:
        """Of the bundle that a command has chosen, where this server takes it."""
        describer, chosen = self.switch.describer, self.switch.chosen
        wanted = chosen if describer is None else describer.bundle.id
        if wanted is None:
            return None
        try:
            if wanted not in accepted:
                raise SessionError("bundle_mismatch", f"{self.server} does not take it")
            if describer is None:
                describer = self._new_describer(self._obtained(channel, wanted, must_keep=False))
                self.switch.describer = describer
            return describer
        except FeatherwireError as error:
            if isinstance(error, SessionError) and error.reason != "bundle_mismatch":
                raise
            logging.getLogger(__name__).warning(
                "warning: bundle %s, which an operator has chosen, is not used: %s",
                wanted[:16],
                error.message,
            )
            self.switch.refused()
            return None

    def _new_describer(self, bundle: Bundle) -> Describer:
        """Of a bundle that a command has chosen, which may be the one that was given."""
        mine = self._mine()
        return Describer(
            bundle,
            mine.also,
            threads=self._threads,
            find=self._of_short_id,
            commanded=mine.bundle is None or mine.bundle.id != bundle.id,
        )

    def _describer_of(self, bundle: Bundle) -> Describer:
        """The one that was made before, with its encoders, unless the bundle is another one."""
        if self._describer is None or self._describer.bundle.id != bundle.id:
            shared = self._encoder
            if shared is not None and shared.bundle.id != bundle.id:
                shared = None
            self._describer = Describer(
                bundle,
                self._mine().also,
                encoder=shared,
                threads=self._threads,
                find=self._of_short_id,
            )
        return self._describer

    def _framer_of(self, describer: Describer, settings: ingest_pb2.ServerSettings) -> Framer:
        return Framer(
            describer,
            settings,
            also=self._mine().named,
            tasks=lambda: self.tasks,
            deadline_s=self._deadline_s,
            regions=lambda: self.regions,
            switch=self.switch,
        )

    def _obtained(self, channel: grpc.Channel, bundle_id: str, *, must_keep: bool = True) -> Bundle:
        return self._at_hand(bundle_id) or self._cache.obtain(
            channel, self.server, bundle_id, must_keep=must_keep
        )

    def _at_hand(self, bundle_id: str) -> Bundle | None:
        """The bundle of that id, if no server need be asked for it."""
        mine = self._mine()
        for bundle in (mine.bundle, *mine.also):
            if bundle is not None and bundle.id == bundle_id:
                return bundle
        return _packaged(bundle_id) or self._cache.find(bundle_id)

    def _of_short_id(self, short_id: bytes) -> Bundle | None:
        """The bundle of a frame that was made before, if it is at hand."""
        if short_id not in self._found:
            mine, digits = self._mine(), short_id.hex()
            self._found[short_id] = next(
                (one for one in (mine.bundle, *mine.also) if one and one.short_id == short_id),
                None,
            ) or (packaged_bundle_of(short_id) or (self._cache.find(digits) if digits else None))
        return self._found[short_id]


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
