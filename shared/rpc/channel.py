"""Channels to a server, and gRPC's arguments of both ends.

The arguments are set as a pair: gRPC closes a connection whose client pings more often than its
server permits, and refuses messages above the receiver's cap.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import TypeAlias

import grpc

from shared.errors import SessionError
from shared.rpc.access import Access, split_address
from shared.rpc.errors import why_unreachable
from shared.rpc.proxies import proxy_for
from shared.rpc.tls_files import read_tls_files
from shared.wire.transport import (
    KEEPALIVE_TIME_S,
    KEEPALIVE_TIMEOUT_S,
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
)

Channel: TypeAlias = grpc.Channel
AsyncChannel: TypeAlias = grpc.aio.Channel

ChannelOptions = list[tuple[str, int | str]]

ASK_AGAIN_S = 0.5


def open_channel(address: str, access: Access | None = None) -> Channel:
    """A channel to ``HOST:PORT``; it connects when it is used. access: None is plain text.

    TLS files are read now, so that a channel which is opened anew has those of today. Raises
    ``SessionError``: ``bad_address``, or ``bad_tls_files`` for unreadable files.
    """
    credentials = _credentials(address, access)
    options = _options_for(address, access)
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, options=options)


def open_async_channel(address: str, access: Access | None = None) -> AsyncChannel:
    """As ``open_channel``, for the event loop that runs."""
    credentials = _credentials(address, access)
    options = _options_for(address, access)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def wait_until_ready(
    channel: Channel,
    address: str,
    timeout_s: float,
    access: Access | None = None,
    failing: Callable[[SessionError], None] | None = None,
) -> None:
    """Connect. Raises ``SessionError("unreachable")`` when that takes longer.

    failing: is told why as soon as the first attempt has failed, while others follow.
    """
    # Not a future's timeout, which goes by the wall clock: a jump would end it, or never.
    until = time.monotonic() + timeout_s
    changes: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
    channel.subscribe(changes.put, try_to_connect=True)
    try:
        while (left_s := until - time.monotonic()) > 0:
            try:
                change = changes.get(timeout=min(left_s, ASK_AGAIN_S))
            except queue.Empty:
                # Not at the end: a channel that was asked must not be closed before it has seen it.
                if left_s > 2 * ASK_AGAIN_S:
                    _ask_again(channel)
                continue
            if change is grpc.ChannelConnectivity.READY:
                return
            if change is grpc.ChannelConnectivity.TRANSIENT_FAILURE and failing is not None:
                failing(_unreachable(address, access))
                failing = None
    finally:
        channel.unsubscribe(changes.put)
    raise _unreachable(address, access)


def _ask_again(channel: Channel) -> None:
    """Have the channel connect if it rests.

    gRPC tells of states, not of changes: a connection that is made and lost at once may never have
    been seen, and the channel rests after it until it is asked to connect.
    """

    def nothing(_: grpc.ChannelConnectivity) -> None:
        return

    channel.subscribe(nothing, try_to_connect=True)
    channel.unsubscribe(nothing)


def _unreachable(address: str, access: Access | None) -> SessionError:
    return SessionError("unreachable", why_unreachable(address, access), server=address)


def client_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> ChannelOptions:
    """gRPC channel arguments of a client."""
    return [
        *_common_options(max_message_bytes),
        # One connection per session: a lost one is seen at once instead of being shared.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


def server_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> ChannelOptions:
    """gRPC channel arguments of a server; tolerates twice the pings of ``client_options``."""
    return [
        *_common_options(max_message_bytes),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", round(KEEPALIVE_TIME_S * 500)),
        # gRPC's own probes of the bandwidth are pings as well: under load they came too often, and
        # good connections were closed.
        ("grpc.http2.max_ping_strikes", 0),
        # Features are entropy-coded already, and gRPC unpacks a whole message before it looks at
        # its size: no compression but identity.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # A second server on the same port is a mistake, not a load balancer.
        ("grpc.so_reuseport", 0),
    ]


def _common_options(max_message_bytes: int) -> ChannelOptions:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", round(KEEPALIVE_TIME_S * 1000)),
        ("grpc.keepalive_timeout_ms", round(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _options_for(address: str, access: Access | None) -> ChannelOptions:
    """With the proxy that the environment names for this address, and no other: gRPC's own reading
    of it sends this machine's addresses to a proxy too."""
    options = client_options()
    if access is not None and access.name is not None:
        options.append(("grpc.ssl_target_name_override", access.name))
    proxy = proxy_for(*split_address(address))
    if proxy is None:
        options.append(("grpc.enable_http_proxy", 0))
    else:
        options.append(("grpc.http_proxy", proxy.url))
    return options


def _credentials(address: str, access: Access | None) -> grpc.ChannelCredentials | None:
    """What TLS needs; None for plain text."""
    split_address(address)
    if access is None or not access.over_tls:
        return None
    pem = read_tls_files(ca=access.ca, certificate=access.certificate, key=access.key)
    credentials = grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)
    if access.token is not None:
        credentials = grpc.composite_channel_credentials(
            credentials, grpc.access_token_call_credentials(access.token)
        )
    return credentials
