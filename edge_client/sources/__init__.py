"""Where pictures come from: cameras, streams, videos, folders, standard input.

address     what SOURCE means, and the source for it
base        what a source is, and a picture that it has taken
stills      a watched folder, and files in order; when a photo was taken
spooled     files that the spool has since a run before, so that none is sent twice
video       RTSP, video files and V4L2 cameras, by PyAV (extra ``stream``)
clock       when a video's pictures were taken, by time stamps that jump, wrap, or are missing
motion_jpeg JPEGs one after another: on standard input, and over HTTP; snapshots
web         what a camera's web server sends, with redirects and passwords
capture     a thread that runs a source, opens it again, and keeps the newest picture
gates       which pictures are worth sending: so many a second, and those in which something moves
feed        the pictures of a source as photos for a session, as far as they are worth sending
"""

from edge_client.sources.address import SourceOptions, open_source
from edge_client.sources.base import Capture, Source
from edge_client.sources.capture import CaptureThread
from edge_client.sources.gates import MotionGate, RateGate

__all__ = [
    "Capture",
    "CaptureThread",
    "MotionGate",
    "RateGate",
    "Source",
    "SourceOptions",
    "open_source",
]
