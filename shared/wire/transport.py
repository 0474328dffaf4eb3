"""The numbers on which both ends of the protocol agree: version, sizes, silence, deadlines."""

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
DEADLINE_PER_MEGAPIXEL_S = 6.0
"""Seconds for every megapixel after the first, unless the server is set otherwise."""


def frame_deadline(
    base_s: float, width: int, height: int, per_megapixel_s: float = DEADLINE_PER_MEGAPIXEL_S
) -> float:
    """Seconds for a picture of ``width`` x ``height`` pixels; ``base_s`` up to one megapixel."""
    return base_s + per_megapixel_s * max(0.0, width * height / 1e6 - 1.0)
