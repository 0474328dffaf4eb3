"""Opening a connection to a server: channel, Hello, and a bundle on which both ends agree."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec import open_edge
from edge_client.bundles import BundleCache, BundleSource, DeviceBundles
from edge_client.rate import RateControl
from edge_client.session.bundle_update import BundleUpdate, Done, Keep
from edge_client.session.connection import Connection, Listener
from edge_client.session.encoding import PhotoEncoder
from edge_client.session.events import nobody
from edge_client.session.frames import Framer
from edge_client.session.groups import Groups
from edge_client.session.refinement_store import RefinementStore
from edge_client.spool import Spool
from shared.bitstream import FORMAT_VERSION
from shared.bundle import Bundle
from shared.errors import FeatherwireError, SessionError
from shared.installation import package_version
from shared.proto.featherwire.v1 import ingest_pb2
from shared.rpc.access import Access
from shared.rpc.channel import Channel, open_channel, wait_until_ready
from shared.targets import Region, Regions
from shared.wire.commands import (
    BundleCommand,
    RatePolicy,
    RegionsCommand,
    Setting,
    TasksCommand,
    parse_rate_policy,
)
from shared.wire.formats import WRITTEN
from shared.wire.requests import MAX_AWAITED, Hello

if TYPE_CHECKING:
    from edge_client.encoder import EdgeEncoder


TakeSettingBy = Callable[[Channel, Setting, Done], None]
"""``TakeSetting`` with the channel by which the command came."""


def keep_nothing(name: str, value: Any) -> None:
    """Keeps nothing over restarts."""


class Opener:
    """Opens connections, one after another, always as the same client."""

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
        access: Access | None,
        timeout_s: float,
        deadline_s: float | None,
        bundle_cache_dir: Path | None,
        regions: Regions = (),
        keep: Keep = keep_nothing,
        chosen_bundle_id: str | None = None,
        bundle_trials: dict[str, int] | None = None,
        groups: Groups | None = None,
    ) -> None:
        """As for ``EdgeSession``. keep: of settings, over restarts; chosen_bundle_id and
        bundle_trials are what was kept as ``chosen_bundle`` and ``bundle_trials``. groups: None is
        of key frames only."""
        self.server = server
        self.device = device
        self.tasks = tasks
        given = encoder.bundle if encoder is not None else bundle
        self._bundles = DeviceBundles(server, given, also, BundleCache(bundle_cache_dir))
        self._encoder = encoder
        self._threads = threads
        self._access = access
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self.regions = regions
        self.bundle_update = BundleUpdate(
            self._bundles.obtain, self._new_photo_encoder, keep, bundle_trials
        )
        self.bundle_update.chosen = chosen_bundle_id
        self._photo_encoder: PhotoEncoder | None = None
        self._said_older = False
        self.groups = groups or Groups(predict=False)

    def open(
        self,
        session: str,
        store: RefinementStore,
        *,
        last_result_seen: int = 0,
        awaited: tuple[int, ...] = (),
        listener: Listener | None = None,
        take_setting: TakeSettingBy | None = None,
        failing: Callable[[SessionError], None] | None = None,
        renews: bool = False,
    ) -> Connection:
        """Connect, and agree on a bundle.

        awaited: frames that were acknowledged on a stream before, and have no result yet. failing:
        see ``wait_until_ready``. renews: see ``Hello``.

        Raises ``SessionError`` (unreachable, refused, bundle_mismatch, unsupported_version, ...)
        and ``BundleError`` when the bundle cannot be had.
        """
        # Before anything is opened: one of them may be damaged.
        first, also = self._bundles.first, self._bundles.also
        channel = open_channel(self.server, self._access)
        connection: Connection | None = None
        try:
            wait_until_ready(channel, self.server, self._timeout_s, self._access, failing)
            hello = Hello(
                device=self.device,
                session=session,
                bundle_id=self.bundle_update.chosen or (first.id if first else None),
                can_switch_bundle=first is None or self.bundle_update.chosen is not None,
                client_version=package_version(),
                also_bundle_ids=tuple(bundle.id for bundle in also),
                last_result_seen=last_result_seen,
                takes_batches=True,
                format_versions=WRITTEN,
                awaited=awaited[:MAX_AWAITED],
                predicts=self.groups.predict,
                renews=renews,
            )
            connection = Connection(
                channel,
                self.server,
                hello,
                store=store,
                timeout_s=self._timeout_s,
                listener=listener,
                take_setting=None if take_setting is None else partial(take_setting, channel),
                outcome=self.bundle_update.outcome,
                groups=self.groups,
            )
            version = self._version_for(connection)
            connection.framer = self._framer(channel, connection.welcome, version)
            return connection
        except BaseException:
            if connection is not None:
                connection.close()
            channel.close()
            raise

    def offline(
        self,
        last_bundle_id: str | None,
        last_version: int | None = None,
        takes_predicted: bool | None = None,
    ) -> Framer:
        """What makes frames while no server is there to be asked.

        last_bundle_id, last_version: the bundle and the format on which a server agreed before,
        the bundle where it is at hand. takes_predicted: whether that decodes predicted frames;
        None where there was none yet. Raises ``BundleError``.
        """
        chosen = self.bundle_update.chosen
        if (
            self.bundle_update.photo_encoder is None
            and chosen
            and (found := self._bundles.at_hand(chosen))
        ):
            self.bundle_update.photo_encoder = self._new_photo_encoder(found)
        photo_encoder = self.bundle_update.photo_encoder
        if photo_encoder is None:
            bundle = self._bundles.first
            if bundle is None and last_bundle_id is not None:
                bundle = self._bundles.at_hand(last_bundle_id)
            photo_encoder = self._photo_encoder_of(bundle or Bundle.load())
        settings = ingest_pb2.ServerSettings(frame_deadline_s=30.0)
        version = min(last_version or FORMAT_VERSION, FORMAT_VERSION)
        return self._framer_of(photo_encoder, settings, version, takes_predicted is not False)

    def use_bundle(self, channel: Channel, bundle_id: str, done: Done) -> None:
        """Change over to a bundle, or say why not; see ``BundleUpdate``."""
        current = self._current
        self.bundle_update.take(channel, bundle_id, None if current is None else current.id, done)

    def check_regions(self) -> None:
        """Raise BundleError ``regions_unsupported`` when the bundle in use knows none."""
        if self._current is not None:
            open_edge(self._current).check_regions()

    @property
    def _current(self) -> Bundle | None:
        """The bundle in use, once there is one."""
        photo_encoder = self.bundle_update.photo_encoder or self._photo_encoder
        return None if photo_encoder is None else photo_encoder.bundle

    def _framer(self, channel: Channel, welcome: ingest_pb2.Welcome, version: int) -> Framer:
        accepted = welcome.accepted_bundle_ids or [welcome.bundle_id]
        for other in self._bundles.also:
            if other.id not in accepted:
                raise _refused(other, self.server)
        photo_encoder = self._chosen_photo_encoder(channel, accepted)
        if photo_encoder is None:
            bundle = self._bundles.first
            if bundle is None or bundle.id not in accepted:
                if bundle is not None:
                    raise _refused(bundle, self.server)
                bundle = self._bundles.obtain(channel, welcome.bundle_id, must_keep=False)
            photo_encoder = self._photo_encoder_of(bundle)
        return self._framer_of(photo_encoder, welcome.settings, version, welcome.takes_predicted)

    def _chosen_photo_encoder(
        self, channel: Channel, accepted: Iterable[str]
    ) -> PhotoEncoder | None:
        """Of the bundle that a command has chosen, where this server takes it."""
        photo_encoder, chosen = self.bundle_update.photo_encoder, self.bundle_update.chosen
        wanted = chosen if photo_encoder is None else photo_encoder.bundle.id
        if wanted is None:
            return None
        try:
            if wanted not in accepted:
                raise SessionError("bundle_mismatch", f"{self.server} does not take it")
            if photo_encoder is None:
                photo_encoder = self._new_photo_encoder(
                    self._bundles.obtain(channel, wanted, must_keep=False)
                )
                self.bundle_update.photo_encoder = photo_encoder
            return photo_encoder
        except FeatherwireError as error:
            if isinstance(error, SessionError) and error.reason != "bundle_mismatch":
                raise
            logging.getLogger(__name__).warning(
                "warning: bundle %s, which an operator has chosen, is not used: %s",
                wanted[:16],
                error.message,
            )
            self.bundle_update.refused()
            return None

    def _new_photo_encoder(self, bundle: Bundle) -> PhotoEncoder:
        """Of a bundle that a command has chosen, which may be the one that was given."""
        first = self._bundles.first
        return PhotoEncoder(
            bundle,
            self._bundles.also,
            threads=self._threads,
            find=self._bundles.of_short_id,
            commanded=first is None or first.id != bundle.id,
        )

    def _photo_encoder_of(self, bundle: Bundle) -> PhotoEncoder:
        """The one that was made before, with its encoders, unless the bundle is another one."""
        if self._photo_encoder is None or self._photo_encoder.bundle.id != bundle.id:
            shared = self._encoder
            if shared is not None and shared.bundle.id != bundle.id:
                shared = None
            self._photo_encoder = PhotoEncoder(
                bundle,
                self._bundles.also,
                encoder=shared,
                threads=self._threads,
                find=self._bundles.of_short_id,
            )
        return self._photo_encoder

    def _framer_of(
        self,
        photo_encoder: PhotoEncoder,
        settings: ingest_pb2.ServerSettings,
        version: int,
        takes_predicted: bool,
    ) -> Framer:
        return Framer(
            photo_encoder,
            settings,
            also=self._bundles.named,
            tasks=lambda: self.tasks,
            deadline_s=self._deadline_s,
            regions=lambda: self.regions,
            bundle_update=self.bundle_update,
            version=version,
            groups=self.groups,
            takes_predicted=takes_predicted,
        )

    def _version_for(self, connection: Connection) -> int:
        """The format for this server's frames; that it is an older one is said once."""
        version = connection.format_version
        if version < FORMAT_VERSION and not self._said_older:
            self._said_older = True
            logging.getLogger(__name__).warning(
                "warning: %s reads bitstreams up to format %d: frames are coded in that, not in %d",
                self.server,
                version,
                FORMAT_VERSION,
            )
        return version


def _refused(bundle: Bundle, server: str) -> SessionError:
    return SessionError(
        "bundle_mismatch",
        f"{server} does not take bundle {bundle.manifest.name} ({bundle.id})",
        bundle_id=bundle.id,
    )


class DeviceSettings:
    """Carries settings out, and keeps them where there is a spool."""

    def __init__(
        self,
        spool: Spool | None,
        control: RateControl,
        opener: Opener,
        tell: Callable[[Setting], None] = nobody,
    ) -> None:
        """tell: see ``SessionEvents.setting``."""
        self._tell = tell
        self._spool = spool
        self._control = control
        self._opener = opener

    def take(self, channel: Channel, wanted: Setting, done: Done) -> None:
        """Carry out a command, keep it, and say so; a bundle takes its time.

        channel: of the stream that it came by. Raises ``SpoolError``, and ``BundleError`` for
        regions of a bundle that knows none.
        """
        match wanted:
            case RatePolicy():
                self._keep("rate_policy", wanted.to_dict())
                self._control.set_policy(wanted)
            case TasksCommand():
                self._keep("tasks", list(wanted.tasks))
                self._opener.tasks = wanted.tasks
            case RegionsCommand():
                if wanted.regions:
                    self._opener.check_regions()
                self._keep("regions", [asdict(region) for region in wanted.regions])
                self._opener.regions = wanted.regions
            case BundleCommand():

                def tried(error: FeatherwireError | None) -> None:
                    if error is None:
                        self._tell(wanted)
                    done(error)

                self._opener.use_bundle(channel, wanted.bundle_id, tried)
                return
        self._tell(wanted)
        done(None)

    def restore(self) -> None:
        """What was kept is in force again."""
        if self._spool is None:
            return
        policy, tasks = self._spool.setting("rate_policy"), self._spool.setting("tasks")
        if policy is not None:
            self._control.set_policy(RatePolicy(**policy))
            self._tell(self._control.policy)
        if tasks is not None:
            self._opener.tasks = tuple(tasks)
            self._tell(TasksCommand(self._opener.tasks))
        regions = self._spool.setting("regions")
        if regions is not None:
            self._opener.regions = tuple(Region(**region) for region in regions)
            self._tell(RegionsCommand(self._opener.regions))
        if (chosen := self._opener.bundle_update.chosen) is not None:
            self._tell(BundleCommand(chosen))

    def follow(self, connection: Connection) -> None:
        """Take the policy that the server has for everybody, unless a command has set another."""
        settings = connection.welcome.settings
        if settings.HasField("rate_policy") and self._control.policy == RatePolicy():
            self._control.set_policy(parse_rate_policy(settings.rate_policy))
            if self._control.policy != RatePolicy():
                self._tell(self._control.policy)

    def _keep(self, name: str, value: object) -> None:
        if self._spool is not None:
            self._spool.keep(name, value)


def default_device_name() -> str:
    """This machine's host name, in the alphabet of device names."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:128] or "device"
