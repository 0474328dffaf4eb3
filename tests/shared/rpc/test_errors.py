"""Failed calls as typed errors: the server's own, or what the status code means."""

from __future__ import annotations

import socket

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from shared.errors import TaskError
from shared.rpc.access import Access
from shared.rpc.errors import error_from_call, explained_error, lost_error
from shared.wire import error_to_message
from shared.wire.transport import ERROR_METADATA_KEY

ADDRESS = "localhost:7570"


def failed(
    code: grpc.StatusCode, details: str = "", trailing: tuple[tuple[str, bytes], ...] = ()
) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(*trailing), details or None)


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "unreachable"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", "deadline_exceeded"),
        (grpc.StatusCode.CANCELLED, "", "closed"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", "busy"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Received message larger than max (9 vs. 4)",
            "message_too_large",
        ),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", "refused"),
        (grpc.StatusCode.INTERNAL, "", "refused"),
    ],
)
def test_a_status_code_becomes_a_reason(code: grpc.StatusCode, details: str, reason: str) -> None:
    error = error_from_call(failed(code, details), ADDRESS)
    assert error.reason == reason
    assert error.message == f"{ADDRESS}: {details or code.name}"
    assert error.details == {"server": ADDRESS, "code": code.name}


def test_the_server_s_own_error_goes_before_the_status_code() -> None:
    sent = error_to_message(TaskError("unknown_task", "no task 'x'", task="x"))
    call = failed(
        grpc.StatusCode.INVALID_ARGUMENT,
        "something else",
        ((ERROR_METADATA_KEY, sent.SerializeToString()),),
    )
    for error in (error_from_call(call, ADDRESS), explained_error(call, ADDRESS, None)):
        assert isinstance(error, TaskError)
        assert (error.reason, error.details) == ("unknown_task", {"task": "x"})


def test_bytes_that_are_no_error_are_passed_over() -> None:
    call = failed(grpc.StatusCode.NOT_FOUND, "gone", ((ERROR_METADATA_KEY, b"\xff\xff"),))
    assert error_from_call(call, ADDRESS).reason == "refused"


def test_why_there_was_no_connection_is_explained() -> None:
    lost = failed(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        plain = explained_error(lost, address, Access())
        secured = explained_error(lost, address, Access(tls=True))
    gone = explained_error(lost, address, None)
    nameless = explained_error(lost, "nobody.invalid:7570", None)
    cut = explained_error(failed(grpc.StatusCode.UNAVAILABLE, "Socket closed"), address, None)
    slow = explained_error(failed(grpc.StatusCode.DEADLINE_EXCEEDED), address, None)
    assert {one.reason for one in (plain, secured, gone, cut, slow)} == {"unreachable"}
    assert "it may want TLS" in plain.message
    assert "TLS failed" in secured.message
    assert "no server answered" in gone.message
    assert "the name nobody.invalid is not known" in nameless.message
    assert "has closed the connection" in cut.message
    assert "did not answer in time" in slow.message


def test_a_connection_that_is_lost_is_said_to_be_in_words() -> None:
    reset = failed(grpc.StatusCode.UNAVAILABLE, "Stream removed (recvmsg:Connection reset by peer)")
    error = lost_error(reset, ADDRESS)
    assert (error.reason, error.message) == (
        "unreachable", f"{ADDRESS} has closed the connection",
    )  # fmt: skip
    assert error.details == {"server": ADDRESS, "code": "UNAVAILABLE"}
    assert lost_error(failed(grpc.StatusCode.CANCELLED), ADDRESS).reason == "closed"
