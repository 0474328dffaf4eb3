"""Between protobuf and typed values: the one place where messages from a peer are checked.

transport   the numbers both ends must agree on: protocol version, caps, silence, deadlines
outcome     what becomes of a frame, as plain values
features    layers and bitstreams, both ways
commands    commands to a device and the replies
requests    Hello, Frame, Refine: checked on arrival, built for sending
results     results, outcomes and task lists, both ways
failures    errors, both ways
tracing     traces across the wire
device_protocol  a device's half of the protocol, without I/O
"""

from shared.wire.failures import error_from_message, error_to_message
from shared.wire.outcome import FrameOutcome, Picture, PictureEncoding, PictureRequest
from shared.wire.transport import PROTOCOL_VERSION

__all__ = [
    "PROTOCOL_VERSION",
    "FrameOutcome",
    "Picture",
    "PictureEncoding",
    "PictureRequest",
    "error_from_message",
    "error_to_message",
]
