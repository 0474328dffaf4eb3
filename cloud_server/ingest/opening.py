"""How a stream begins: what all streams share, Hello, Welcome."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cloud_server.auth.access import Caller
from cloud_server.fleet.fleet import Fleet
from cloud_server.ingest.limits import StreamLimits
from cloud_server.ingest.processing import Processing
from cloud_server.ingest.served import ServedBundles
from cloud_server.ingest.sessions import SessionRegistry
from cloud_server.results.log import ResultLog
from shared.errors import SessionError, StorageError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire import PROTOCOL_VERSION
from shared.wire.requests import Hello, parse_hello

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shared:
    """What all streams of a server have in common."""

    processing: Processing
    log: ResultLog
    sessions: SessionRegistry
    bundles: ServedBundles
    settings: ingest_pb2.ServerSettings
    server_version: str
    limits: StreamLimits
    fleet: Fleet
    picture_limits: Limits = DEFAULT_LIMITS

    def welcome(
        self, resume_after: int, credits: int, policy: fleet_pb2.RatePolicy | None
    ) -> ingest_pb2.Welcome:
        """The answer to Hello, with the rate policy that an operator has given the device."""
        settings = self.settings
        if policy is not None:
            settings = ingest_pb2.ServerSettings()
            settings.CopyFrom(self.settings)
            settings.rate_policy.CopyFrom(policy)
        return ingest_pb2.Welcome(
            protocol_version=PROTOCOL_VERSION,
            resume_after_sequence=resume_after,
            credits=credits,
            bundle_id=self.bundles.wanted.id,
            accepted_bundle_ids=self.bundles.ids,
            settings=settings,
            server_version=self.server_version,
            takes_batches=True,
        )


def hello_of(request: ingest_pb2.ConnectRequest, caller: Caller) -> Hello:
    """Check a stream's first message.

    Raises ``SessionError``: no_hello, what ``parse_hello`` raises, or that the caller is no such
    device.
    """
    if request.WhichOneof("message") != "hello":
        raise SessionError("no_hello", "the first message of a stream must be Hello")
    hello = parse_hello(request.hello)
    caller.check_device(hello.device)
    return replace(hello, labels={**hello.labels, **caller.labels})


async def from_log(reading: Awaitable[T], logger: Any) -> T:
    """What is read of the log; raises ``SessionError("log_unavailable")``, and logs why."""
    try:
        return await reading
    except StorageError as error:
        logger.error("log_unavailable", reason=error.reason, error=error.message)
        raise SessionError(
            "log_unavailable", "the server cannot read its log now; try again later"
        ) from None
