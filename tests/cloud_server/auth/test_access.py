"""Every call of every service, by every role: what is not allowed is refused."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from cloud_server.auth.access import ACCESS, OPEN
from cloud_server.auth.tokens import Role
from cloud_server.serve.server import SERVICES
from shared.errors import SessionError
from shared.rpc.channel import open_channel
from shared.rpc.errors import error_from_call
from tests.support.access import Keys
from tests.support.servers import ServerThread

Start = Callable[..., ServerThread]


def every_call() -> list[tuple[str, bool, bool]]:
    """Full name, and whether requests and responses are streams, of all that is served."""
    pool = descriptor_pool.Default()
    found = []
    for service in (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME):
        for method in pool.FindServiceByName(service).methods:
            streams = (method.client_streaming, method.server_streaming)
            found.append((f"/{service}/{method.name}", *streams))
    return found


def outcome(channel: grpc.Channel, name: str, requests: bool, responses: bool) -> grpc.RpcError:
    """How a call with an empty request ends; one that goes on is cancelled after a while."""
    try:
        if not requests and not responses:
            channel.unary_unary(name)(b"", timeout=20)
        elif not requests:
            list(channel.unary_stream(name)(b"", timeout=1))
        else:
            list(channel.stream_stream(name)(iter([b""]), timeout=20))
    except grpc.RpcError as error:
        return error
    return grpc.RpcError()


def test_every_call_is_in_the_table_and_nothing_else_is() -> None:
    served = {name for name, _, _ in every_call()}
    assert set(ACCESS) | OPEN == served
    assert not set(ACCESS) & OPEN
    assert all(ACCESS.values())


def test_each_role_may_make_its_calls_and_no_other(start_server: Start, keys: Keys) -> None:
    texts: dict[Role | None, str | None] = {None: None}
    for role in Role:
        texts[role] = keys.token(role, device="cam" if role is Role.DEVICE else None)
    server = start_server(**keys.server)
    refusals = 0
    for role, text in texts.items():
        with open_channel(server.address, keys.access(text)) as channel:
            for name, requests, responses in every_call():
                error = outcome(channel, name, requests, responses)
                code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.OK
                if name in OPEN or (role is not None and role in ACCESS[name]):
                    assert code not in {
                        grpc.StatusCode.UNAUTHENTICATED,
                        grpc.StatusCode.PERMISSION_DENIED,
                    }, (role, name)
                    continue
                refusals += 1
                told = error_from_call(error, server.address)
                expected = "unauthenticated" if role is None else "forbidden"
                assert told.reason == expected, (role, name, code)
                if role is not None:  # in words: what it cannot do, and which token can
                    can, _, takes = told.message.partition("; that takes a token of role ")
                    assert can.startswith(f"a token of role {role} cannot "), told.message
                    assert set(takes.split(" or ")) == set(ACCESS[name]), told.message
                    assert name not in told.message
                assert isinstance(told, SessionError)
                assert code is (
                    grpc.StatusCode.UNAUTHENTICATED
                    if role is None
                    else grpc.StatusCode.PERMISSION_DENIED
                )
    authenticator = server.server._authenticator
    assert authenticator is not None
    assert authenticator.refused == refusals > len(every_call())


def test_a_call_that_is_not_in_the_table_is_refused(start_server: Start, keys: Keys) -> None:
    text = keys.token(Role.OPERATOR)
    server = start_server(**keys.server)
    with open_channel(server.address, keys.access(text)) as channel:
        error = outcome(channel, "/featherwire.v1.FleetService/NoSuchCall", False, False)
        told = error_from_call(error, server.address)
        assert told.reason == "forbidden"
        assert "no call /featherwire.v1.FleetService/NoSuchCall" in str(told)


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_stream_ends_when_its_token_does(start_server: Start, keys: Keys, how: str) -> None:
    text = keys.token(Role.CONSUMER, lasts_s=4.0 if how == "expired" else None)
    server = start_server(**keys.server)
    with open_channel(server.address, keys.access(text)) as channel:
        call = channel.unary_stream("/featherwire.v1.ResultService/SubscribeResults")(b"")
        next(call)  # its position: it is being served
        if how == "revoked":
            keys.revoke(text)
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert error_from_call(caught.value, server.address).reason == f"token_{how}"
        again = outcome(channel, "/featherwire.v1.ResultService/ListResults", False, False)
        assert error_from_call(again, server.address).reason == f"token_{how}"
    deadline = time.monotonic() + 20
    while server.server._results.subscribers:
        assert time.monotonic() < deadline
        time.sleep(0.01)
