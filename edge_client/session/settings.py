"""What an operator has set on this device: rate policy, tasks, regions, bundle."""

from __future__ import annotations

from dataclasses import asdict

import grpc

from edge_client.rate import RateControl
from edge_client.session.opening import Link, Opener
from edge_client.session.switch import Done
from edge_client.spool import Spool
from shared.targets import Region
from shared.wire.commands import (
    BundleCommand,
    RatePolicy,
    RegionsCommand,
    Setting,
    TasksCommand,
    parse_rate_policy,
)


class DeviceSettings:
    """Carries settings out, and keeps them where there is a spool."""

    def __init__(
        self,
        spool: Spool | None,
        control: RateControl,
        opener: Opener,
    ) -> None:
        self._spool = spool
        self._control = control
        self._opener = opener

    def take(self, channel: grpc.Channel, wanted: Setting, done: Done) -> None:
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
                self._opener.use_bundle(channel, wanted.bundle_id, done)
                return
        done(None)

    def restore(self) -> None:
        """What was kept is in force again."""
        if self._spool is None:
            return
        policy, tasks = self._spool.setting("rate_policy"), self._spool.setting("tasks")
        if policy is not None:
            self._control.set_policy(RatePolicy(**policy))
        if tasks is not None:
            self._opener.tasks = tuple(tasks)
        regions = self._spool.setting("regions")
        if regions is not None:
            self._opener.regions = tuple(Region(**region) for region in regions)

    def follow(self, link: Link) -> None:
        """Take the policy that the server has for everybody, unless a command said otherwise."""
        settings = link.connection.welcome.settings
        if settings.HasField("rate_policy") and self._control.policy == RatePolicy():
            self._control.set_policy(parse_rate_policy(settings.rate_policy))

    def _keep(self, name: str, value: object) -> None:
        if self._spool is not None:
            self._spool.keep(name, value)
