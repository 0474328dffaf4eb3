"""The numbers of the transport, set as a pair: what one end does, the other end tolerates.

gRPC closes a connection whose client pings more often than its server permits, and refuses messages
above the receiver's cap; so both ends take their options from here.
"""

from __future__ import annotations

PROTOCOL_VERSION = 1

MAX_MESSAGE_BYTES = 32 * 2**20
"""Serialised bytes of one message, either way."""

MAX_FRAME_BYTES = 24 * 2**20
"""Bytes of all layers of one frame: the message's cap less ample room for everything else."""

MAX_PICTURE_BYTES = 24 * 2**20
"""Bytes of an encoded reconstruction in a result, for the same reason."""

BUNDLE_CHUNK_BYTES = 64 * 2**10
"""Bytes of one message of a bundle's hand-over: what a cut line costs at most."""

CONNECT = "/featherwire.v1.IngestService/Connect"
"""The stream's method, for those who send bytes (`DeviceProtocol.next_message`)."""

BATCH_MESSAGES = 256
BATCH_BYTES = 256 * 2**10
"""What goes out as one message when it is ready together; a larger message goes by itself."""

KEEPALIVE_TIME_S = 20.0
"""A silent connection is pinged this often, by both ends."""

KEEPALIVE_TIMEOUT_S = 10.0
"""A connection that leaves a ping unanswered so long is closed."""

HEARTBEAT_TIME_S = 15.0
"""A client asks for an answer on a stream that has been silent so long with nothing in flight."""

HEARTBEAT_TIMEOUT_S = 20.0
"""A stream that leaves a heartbeat unanswered so long is ended, and opened anew."""

ERROR_METADATA_KEY = "featherwire-error-bin"
"""Trailing metadata that carries a serialised ``Error`` when a call fails."""

MAX_METADATA_BYTES = 16 * 2**10

ChannelOptions = list[tuple[str, int]]


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
