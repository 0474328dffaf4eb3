"""What an operator has set on this device: the rate policy, and the tasks."""

from __future__ import annotations

from collections.abc import Callable

from edge_client.rate import RateControl
from edge_client.session.opening import Link, Opener
from edge_client.spool import Spool
from shared.wire.commands import RatePolicy, TasksCommand, parse_rate_policy


class DeviceSettings:
    """Carries settings out, and keeps them where there is a spool."""

    def __init__(
        self,
        spool: Spool | None,
        control: RateControl,
        opener: Opener,
        link: Callable[[], Link | None],
    ) -> None:
        """link: the one that is open now, if there is one."""
        self._spool = spool
        self._control = control
        self._opener = opener
        self._link = link

    def take(self, wanted: RatePolicy | TasksCommand) -> None:
        """Carry out a command, and keep it. Raises ``SpoolError``."""
        if isinstance(wanted, RatePolicy):
            if self._spool is not None:
                self._spool.keep("rate_policy", wanted.to_dict())
            self._control.set_policy(wanted)
        else:
            if self._spool is not None:
                self._spool.keep("tasks", list(wanted.tasks))
            self._set_tasks(wanted.tasks)

    def restore(self) -> None:
        """What was kept is in force again."""
        if self._spool is None:
            return
        policy, tasks = self._spool.setting("rate_policy"), self._spool.setting("tasks")
        if policy is not None:
            self._control.set_policy(RatePolicy(**policy))
        if tasks is not None:
            self._opener.tasks = tuple(tasks)

    def follow(self, link: Link) -> None:
        """Take the policy that the server has for everybody, unless a command said otherwise."""
        settings = link.connection.welcome.settings
        if settings.HasField("rate_policy") and self._control.policy == RatePolicy():
            self._control.set_policy(parse_rate_policy(settings.rate_policy))

    def _set_tasks(self, tasks: tuple[str, ...]) -> None:
        self._opener.tasks = tasks
        link = self._link()
        if link is not None:
            link.framer.default_tasks = tasks
