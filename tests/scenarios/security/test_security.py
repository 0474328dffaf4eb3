"""Strangers, thieves and liars: refused with a type, and the server lives on."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.auth.development_ca import make_development_ca
from cloud_server.auth.tokens import Role
from cloud_server.consumers import ResultClient
from cloud_server.fleet.client import FleetClient
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.bundle import Bundle
from shared.errors import SessionError
from shared.rpc.access import Access
from shared.rpc.channel import open_channel
from shared.rpc.errors import error_from_call
from shared.wire.transport import MAX_MESSAGE_BYTES
from tests.support.access import Keys, stored_bytes
from tests.support.commands import run
from tests.support.raw_client import RawClient
from tests.support.servers import ServerThread, server_process

Start = Callable[..., ServerThread]


def refusal(address: str, access: Access | None, device: str, encoder: EdgeEncoder) -> str:
    """The reason for which a device is turned away."""
    with (
        pytest.raises(SessionError) as caught,
        EdgeSession(address, device=device, encoder=encoder, access=access, connect_timeout_s=3),
    ):
        pass
    return caught.value.reason


def send_until_refused(session: EdgeSession, image: NDArray[np.uint8]) -> None:
    for _ in range(10_000):
        session.send(image, state=4)


def raw(keys: Keys, address: str, token: str | None) -> RawClient:
    return RawClient(address, channel=open_channel(address, keys.access(token)))


def test_a_device_is_only_itself(
    start_server: Start, keys: Keys, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    mine, other = (keys.token(Role.DEVICE, device=name) for name in ("cam-1", "cam-2"))
    reader = keys.token(Role.CONSUMER)
    server = start_server(**keys.server)
    with EdgeSession(
        server.address, device="cam-1", encoder=encoder, access=keys.access(mine)
    ) as session:
        assert session.send(image, state=4).analysis is not None
        # Whoever has the token of another camera cannot take the session over.
        assert refusal(server.address, keys.access(other), "cam-1", encoder) == "wrong_device"
        assert refusal(server.address, keys.access(reader), "cam-1", encoder) == "forbidden"
        assert refusal(server.address, keys.access(None), "cam-1", encoder) == "unauthenticated"
        assert session.send(image, state=4).analysis is not None
        assert session.analyze(image, state=4).analysis is not None
    client = raw(keys, server.address, other)
    client.say(hello={"protocol_version": 1, "device": "cam-1", "session": "s"})
    assert client.ended.wait(20)
    assert client.error is not None
    assert client.error.code() is grpc.StatusCode.PERMISSION_DENIED
    (told,) = client.all("error")
    assert told.reason == "wrong_device"
    client.close()
    with ResultClient(server.address, keys.access(reader)) as results:
        assert {record.device for record in results.records()} == {"cam-1"}


def test_tokens_that_were_good_once_are_good_no_more(
    start_server: Start, keys: Keys, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    stolen = keys.token(Role.DEVICE, device="cam")
    expired = keys.token(Role.DEVICE, device="cam", lasts_s=0.0)
    server = start_server(**keys.server)
    assert refusal(server.address, keys.access(expired), "cam", encoder) == "token_expired"
    forged = stolen[:-1] + ("A" if stolen[-1] != "A" else "B")
    assert refusal(server.address, keys.access(forged), "cam", encoder) == "unauthenticated"
    with EdgeSession(
        server.address, device="cam", encoder=encoder, access=keys.access(stolen)
    ) as session:
        assert session.send(image, state=4).analysis is not None
        keys.revoke(stolen)
        with pytest.raises(SessionError) as caught:
            send_until_refused(session, image)
        assert caught.value.reason == "token_revoked"
    # Shown again, as somebody does who has listened or found a backup.
    assert refusal(server.address, keys.access(stolen), "cam", encoder) == "token_revoked"
    fresh = keys.token(Role.DEVICE, device="cam")
    with EdgeSession(
        server.address, device="cam", encoder=encoder, access=keys.access(fresh)
    ) as one:
        assert one.send(image, state=4).analysis is not None


def test_plain_text_and_other_authorities_get_nowhere(
    start_server: Start, keys: Keys, encoder: EdgeEncoder, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    token = keys.token(Role.DEVICE, device="cam")
    server = start_server(**keys.server)
    assert refusal(server.address, None, "cam", encoder) == "unreachable"
    make_development_ca(tmp_path / "others")
    others = Keys(tmp_path / "others", keys.data)
    assert refusal(server.address, others.access(token), "cam", encoder) == "unreachable"
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 64)
        answer = plain.recv(4096)
    assert token.encode() not in answer
    context = ssl.create_default_context(cafile=keys.folder / "ca.pem")
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        assert secured.version() in {"TLSv1.2", "TLSv1.3"}
    with EdgeSession(
        server.address, device="cam", encoder=encoder, access=keys.access(token)
    ) as one:
        assert one.send(image, state=4).analysis is not None


def test_operators_hear_why_there_is_no_connection(start_server: Start, keys: Keys) -> None:
    keys.token(Role.OPERATOR)
    server = start_server(**keys.server)
    nobody = "127.0.0.1:1"
    cases = [(server.address, None, "may want TLS"), (nobody, None, "no server answered")]
    other = Access(ca=keys.folder / "client.pem")
    cases.append((server.address, other, "TLS failed"))
    for address, access, words in cases:
        with FleetClient(address, access) as operator, pytest.raises(SessionError) as caught:
            list(operator.devices())
        assert caught.value.reason == "unreachable"
        assert words in caught.value.message
    for Client in (FleetClient, ResultClient):
        with pytest.raises(SessionError) as caught:
            Client("localhost")
        assert caught.value.reason == "bad_address"


def test_a_token_is_never_sent_in_plain_text(keys: Keys) -> None:
    """A listener that takes everything and answers nothing gets no token to read."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(20)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        channel = open_channel(address, Access(token="fwt_secret"))
        call = channel.unary_unary("/featherwire.v1.ResultService/ListResults").future(b"")
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            heard = connection.recv(65536)
        call.cancel()
        channel.close()
    assert heard[:1] == b"\x16"  # a TLS handshake
    assert b"secret" not in heard


def test_mutual_tls_wants_a_certificate_and_a_token(
    start_server: Start, keys: Keys, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    token = keys.token(Role.DEVICE, device="cam")
    server = start_server(**keys.server, tls_client_ca=keys.folder / "ca.pem")
    bare = keys.access(None, certificate=True)
    assert refusal(server.address, keys.access(token), "cam", encoder) == "unreachable"
    assert refusal(server.address, bare, "cam", encoder) == "unauthenticated"
    whole = keys.access(token, certificate=True)
    with EdgeSession(server.address, device="cam", encoder=encoder, access=whole) as session:
        assert session.send(image, state=4).analysis is not None


def test_messages_that_are_too_large_are_refused_before_anything_else(
    start_server: Start, keys: Keys, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    token = keys.token(Role.DEVICE, device="cam")
    server = start_server(**keys.server, max_message_bytes=2**20)
    access = keys.access(token)
    with open_channel(server.address, access) as channel:
        analyze = channel.unary_unary("/featherwire.v1.IngestService/Analyze")
        for size in (2**20 + 1, MAX_MESSAGE_BYTES - 1000):
            with pytest.raises(grpc.RpcError) as caught:
                analyze(b"\x0a" + b"\0" * size, timeout=30)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # Metadata beyond its cap, as a token of 20 kB is.
        long = Access(True, access.ca, token="x" * 20_000)
        with open_channel(server.address, long) as other, pytest.raises(grpc.RpcError) as caught:
            other.unary_unary("/featherwire.v1.IngestService/Analyze")(b"", timeout=30)
        assert caught.value.code() is not grpc.StatusCode.OK
        with pytest.raises(grpc.RpcError) as caught:
            analyze(b"", timeout=30)
        assert error_from_call(caught.value, server.address).reason != "unauthenticated"
    with EdgeSession(
        server.address, device="cam", encoder=encoder, access=keys.access(token)
    ) as one:
        assert one.send(image, state=4).analysis is not None


def test_a_server_does_not_start_open(tmp_path: Path, tiny_bundle: Bundle, keys: Keys) -> None:
    bundle = ("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none")
    data = ("--data", str(tmp_path / "data"))
    tls = (
        "--tls-cert",
        str(keys.folder / "server.pem"),
        "--tls-key",
        str(keys.folder / "server.key"),
    )
    for arguments, said in (
        (("--listen", "127.0.0.1:0"), "needs TLS"),
        (("--listen", "127.0.0.1:0", *tls), "auth token create"),
        (("--listen", "0.0.0.0:0", "--insecure"), "--insecure-anywhere"),
        (("--listen", "0.0.0.0:0", "--insecure", *tls), "--insecure-anywhere"),
        (("--listen", "[::]:0", "--insecure"), "--insecure-anywhere"),
    ):
        done = run("cloud_server", "serve", *bundle, *data, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert said in done.stderr
    with server_process(
        *bundle, "--listen", "0.0.0.0:0", "--insecure-anywhere", log=tmp_path / "log"
    ) as (_, ready):
        assert ready["listening"].startswith("0.0.0.0:")


def test_no_secret_is_in_the_logs_or_the_database(
    tmp_path: Path, tiny_bundle: Bundle, encoder: EdgeEncoder, image: NDArray[np.uint8], keys: Keys
) -> None:
    good = keys.token(Role.DEVICE, device="cam", name="gate")
    operator = keys.token(Role.OPERATOR)
    revoked = keys.token(Role.DEVICE, device="cam")
    keys.revoke(revoked)
    forged = "fwt_0123456789abcdef_" + "S3cret" * 7 + "x"
    log = tmp_path / "server.log"
    with server_process(
        "--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none",
        "--log-level", "debug", "--data", str(keys.data),
        "--tls-cert", str(keys.folder / "server.pem"),
        "--tls-key", str(keys.folder / "server.key"),
        log=log, insecure=False,
    ) as (process, ready):  # fmt: skip
        address = ready["listening"]
        with EdgeSession(
            address, device="cam", encoder=encoder, access=keys.access(good)
        ) as session:
            assert session.send(image, state=4).analysis is not None
        assert refusal(address, keys.access(good), "cam-2", encoder) == "wrong_device"
        assert refusal(address, keys.access(revoked), "cam", encoder) == "token_revoked"
        assert refusal(address, keys.access(forged), "cam", encoder) == "unauthenticated"
        assert refusal(address, keys.access(operator), "cam", encoder) == "forbidden"
        process.terminate()
        process.wait(30)
    text = log.read_text()
    for token_text in (good, revoked, operator):
        _, token_id, secret = token_text.split("_", 2)
        assert secret not in text
        assert secret.encode() not in stored_bytes(keys.data)
        assert token_id in text or token_text is good  # who was refused is told by the id
    assert "S3cret" not in text
    assert len(re.findall("call_refused", text)) >= 3
    assert "PRIVATE KEY" not in text
