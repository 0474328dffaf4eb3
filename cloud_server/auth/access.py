"""Who may call what: every call shows a token of a role that may make it, or is refused.

ACCESS          the calls that each role may make; what is not in the table is refused
caller          who makes the call that is being served
Authenticator   the gRPC interceptor that asks for tokens, and ends streams whose token is revoked
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc
import structlog
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cloud_server.auth.tokens import Role, Token, among, find
from cloud_server.database import Database
from cloud_server.telemetry.metrics import Metrics
from shared.errors import FeatherwireError, SessionError, StorageError
from shared.proto.featherwire.v1 import bundles_pb2, fleet_pb2, ingest_pb2, results_pb2
from shared.rpc.access import FOR_METADATA_KEY, TOKEN_METADATA_KEY, token_of
from shared.rpc.status import abort

EVERYBODY = frozenset(Role)
_DEVICE = frozenset({Role.DEVICE})
_OPERATOR = frozenset({Role.OPERATOR})
_READERS = frozenset({Role.OPERATOR, Role.CONSUMER})

_INGEST = ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name
_BUNDLES = bundles_pb2.DESCRIPTOR.services_by_name["BundleService"].full_name
_RESULTS = results_pb2.DESCRIPTOR.services_by_name["ResultService"].full_name
_FLEET = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name

ACCESS: Mapping[str, frozenset[Role]] = {
    f"/{_INGEST}/Connect": _DEVICE,
    f"/{_INGEST}/Analyze": _DEVICE,
    f"/{_BUNDLES}/ListBundles": EVERYBODY,
    f"/{_BUNDLES}/GetBundle": EVERYBODY,
    f"/{_RESULTS}/ListResults": _READERS,
    f"/{_RESULTS}/GetResult": _READERS,
    f"/{_RESULTS}/SubscribeResults": _READERS,
    f"/{_RESULTS}/GetFrame": _READERS,
    f"/{_FLEET}/ListDevices": _READERS,
    f"/{_FLEET}/WatchDevices": _READERS,
    f"/{_FLEET}/SendCommand": _OPERATOR,
    f"/{_FLEET}/CancelCommands": _OPERATOR,
    f"/{_FLEET}/ForgetDevice": _OPERATOR,
    f"/{_FLEET}/ListCommands": _OPERATOR,
    f"/{_FLEET}/ListAudit": _OPERATOR,
    f"/{_REFLECTION}/ServerReflectionInfo": EVERYBODY,
}
"""By a call's full name: the roles that may make it."""

_DOES: Mapping[str, str] = {
    "Connect": "send frames",
    "Analyze": "have pictures analysed",
    "ListBundles": "list bundles",
    "GetBundle": "fetch bundles",
    "ListResults": "read results",
    "GetResult": "read results",
    "SubscribeResults": "follow results",
    "GetFrame": "fetch frames",
    "ListDevices": "list devices",
    "WatchDevices": "watch devices",
    "SendCommand": "command devices",
    "CancelCommands": "take commands back",
    "ForgetDevice": "make the server forget a device",
    "ListCommands": "list commands",
    "ListAudit": "read the audit",
    "ServerReflectionInfo": "list the server's calls",
}
"""By a call's name: what its caller wants to do."""

WHO = f"/{_FLEET}/GetCaller"
OPEN: frozenset[str] = frozenset({f"/{_HEALTH}/Check", f"/{_HEALTH}/Watch", WHO})
"""Calls that need no token: whoever keeps a server running asks for its health, and whoever comes
to a console asks whether a token is needed. A token that comes with the latter must be good."""

Refused = Callable[[str, str, FeatherwireError, Mapping[str, Any] | None], None]
"""Called with who was refused, which call, why, and what else there is to note."""


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


RECHECK_S = 2.0
"""A stream goes on for so long with a token that was revoked, or has expired."""


class Authenticator(grpc.aio.ServerInterceptor):
    """Lets calls through by token and role, and ends streams whose token is no longer good."""

    def __init__(
        self,
        database: Database,
        *,
        recheck_s: float = RECHECK_S,
        metrics: Metrics | None = None,
        refused: Refused | None = None,
    ) -> None:
        """refused: notes refusals in the audit."""
        self._note = refused
        self._metrics = metrics or Metrics()
        self._database = database
        self._recheck_s = recheck_s
        self._streams: dict[asyncio.Future[SessionError], Token] = {}
        self._checking: asyncio.Task[None] | None = None
        self.refused = 0
        """Calls that were turned away, since the start."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See ``grpc.aio.ServerInterceptor``."""
        method = handler_call_details.method
        metadata = dict(handler_call_details.invocation_metadata or ())
        if method in OPEN and (method != WHO or TOKEN_METADATA_KEY not in metadata):
            return await continuation(handler_call_details)
        token: Token | None = None
        try:
            token = await self._token(handler_call_details.invocation_metadata)
            self._check(token, method)
        except FeatherwireError as error:
            if not isinstance(error, StorageError):
                self.refused += 1
                self._metrics.refused.labels(error.reason).inc()
            structlog.get_logger().warning(
                "call_refused",
                method=method[:200],
                reason=error.reason,
                token=None if token is None else token.id,
            )
            return self._refusal(method, token, error, metadata)
        let_in(token)
        return self._guarded(await continuation(handler_call_details), token)

    async def close(self) -> None:
        """Look after streams no longer."""
        if self._checking is not None:
            self._checking.cancel()
            with suppress(asyncio.CancelledError):
                await self._checking

    async def _token(self, metadata: Any) -> Token:
        """The caller's token; raises ``SessionError`` when there is none that is known."""
        text = token_of(value for key, value in metadata or () if key == TOKEN_METADATA_KEY)
        try:
            token = await self._database.read(lambda connection: find(connection, text))
        except StorageError:
            raise SessionError(
                "log_unavailable", "the server cannot read its tokens now; try again later"
            ) from None
        if token is None:
            raise SessionError("unauthenticated", "this server does not know that token")
        return token

    @staticmethod
    def _check(token: Token, method: str) -> None:
        """Raise ``SessionError`` for a call that its holder may not make."""
        complaint = token.complaint()
        if complaint is not None:
            raise complaint
        if method != WHO and token.role not in ACCESS.get(method, ()):
            raise SessionError("forbidden", _forbidden(token.role, method))

    def _refusal(
        self, method: str, token: Token | None, error: FeatherwireError, metadata: dict[str, Any]
    ) -> Any:
        """A handler that fits every kind of call: it reads nothing, and ends with the error."""

        async def refuse(_requests: Any, context: Any) -> None:
            if self._note is not None and error.reason != "log_unavailable":
                who = _somebody(context.peer()) if token is None else Caller(token).name
                tried_for = metadata.get(FOR_METADATA_KEY)
                more = None
                if isinstance(tried_for, str) and tried_for.isprintable():
                    more = {"for": tried_for[:64]}
                self._note(who, method.rpartition("/")[2][:64], error, more)
            await abort(context, error)

        return grpc.stream_stream_rpc_method_handler(refuse)

    # -- streams ---------------------------------------------------------------------------------

    def _guarded(self, handler: Any, token: Token) -> Any:
        """The handler; one that may run for long is ended when the token is no longer good."""
        if handler is None or not handler.response_streaming:
            return handler
        serve = handler.stream_stream if handler.request_streaming else handler.unary_stream
        if not inspect.iscoroutinefunction(serve):
            return handler  # a generator: what it streams is bounded

        async def guarded(request: Any, context: Any) -> None:
            revoked = self._watched(token)
            serving = asyncio.ensure_future(serve(request, context))
            try:
                await asyncio.wait({serving, revoked}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
                raise
            finally:
                self._streams.pop(revoked, None)
            if serving.done():
                serving.result()
                return
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            error = revoked.result()
            structlog.get_logger().warning("stream_ended", reason=error.reason, token=token.id)
            await abort(context, error)

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    def _watched(self, token: Token) -> asyncio.Future[SessionError]:
        """Done when the token is no longer good."""
        revoked: asyncio.Future[SessionError] = asyncio.get_running_loop().create_future()
        self._streams[revoked] = token
        if self._checking is None:
            self._checking = asyncio.create_task(self._check_streams())
        return revoked

    async def _check_streams(self) -> None:
        while True:
            await asyncio.sleep(self._recheck_s)
            ids = {token.id for token in self._streams.values()}
            if not ids:
                continue
            try:
                known = await self._database.read(partial(among, token_ids=ids))
            except StorageError:
                continue  # whoever is here was let in; the database's own calls report it
            for revoked, token in list(self._streams.items()):
                complaint = known.get(token.id, token).complaint()
                if complaint is not None and not revoked.done():
                    revoked.set_result(complaint)


def _forbidden(role: Role, method: str) -> str:
    """In words: what a token of this role cannot do, and which can."""
    if method not in ACCESS:
        return f"this server has no call {method[:200]}, for tokens of any role"
    can = " or ".join(one for one in Role if one in ACCESS[method])
    return (
        f"a token of role {role} cannot {_DOES[method.rpartition('/')[2]]}; "
        f"that takes a token of role {can}"
    )


def _somebody(peer: str) -> str:
    """Who has no token that is known, by gRPC's name of the other end (ipv4:10.0.0.3:4711)."""
    host = peer.partition(":")[2].rpartition(":")[0] or peer
    return f"somebody at {unquote(host).strip('[]')[:64]}"
