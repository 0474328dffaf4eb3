"""Who makes the call that is being served."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from cloud_server.auth.tokens import Token
from shared.errors import SessionError


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a token; of none where the server asks for none, and then anybody."""

    token: Token | None = None

    @property
    def name(self) -> str:
        """For logs and the audit."""
        if self.token is None:
            return "anybody"
        return f"{self.token.name or self.token.role.value} ({self.token.id})"

    @property
    def labels(self) -> Mapping[str, str]:
        """Of the device, as whoever made its token says."""
        return {} if self.token is None else self.token.labels

    def check_device(self, device: str) -> None:
        """Raise ``SessionError("wrong_device")`` unless the caller is that device."""
        if self.token is not None and self.token.device != device:
            raise SessionError(
                "wrong_device",
                f"this token is for device {self.token.device}, not {device}",
                device=self.token.device,
            )


_CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


def caller() -> Caller:
    """Who makes the call in whose task this is asked."""
    return _CALLER.get() or Caller()


def let_in(token: Token) -> None:
    """This task serves the holder of ``token`` from here on."""
    _CALLER.set(Caller(token))
