"""Between protobuf and typed values: the one place where messages from a peer are checked.

transport   the numbers both ends must agree on: protocol version, caps, silence, deadlines
features    layers and bitstreams, both ways
commands    commands to a device and the replies
requests    Hello, Frame, Refine, pictures that are asked for: checked on arrival, built for sending
results     what becomes of a frame, as plain values; results and task lists, both ways
failures    errors, both ways
tracing     traces across the wire
device_protocol  a device's half of the protocol, without I/O
"""

from shared.wire.failures import error_from_message, error_to_message
from shared.wire.requests import PictureEncoding, PictureRequest
from shared.wire.results import FrameOutcome, Picture
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
