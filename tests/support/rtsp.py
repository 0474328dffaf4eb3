"""Real RTSP servers, as processes that can be killed: GStreamer's, and the one of rtsp-rs.

Each shows a picture whose left half is red and whose right half is blue: 160x96, 10 a second, in
H.264. That of rtsp-rs can show a video in its place, over and over.

    python -m tests.support.rtsp PORT [VIDEO]      the server of rtsp-rs, until it is killed
"""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av

FRAMES_PER_SECOND = 10
SYSTEM_PYTHON = "/usr/bin/python3"
GSTREAMER = """
import sys, gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
if len(sys.argv) == 1:
    sys.exit(0 if Gst.ElementFactory.find("x264enc") else 1)
server = GstRtspServer.RTSPServer()
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
half = "videotestsrc is-live=true pattern=%s ! video/x-raw,width=80,height=96,framerate=10/1 ! mix."
factory.set_launch(
    "( compositor name=mix sink_1::xpos=80 ! video/x-raw,width=160,height=96,framerate=10/1"
    " ! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency key-int-max=10"
    " ! rtph264pay name=pay0 pt=96 "
    + half % "red" + " " + half % "blue" + " )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/stream", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


def why_not(kind: str) -> str | None:
    """Why this kind of server cannot be had here; None when it can."""
    if kind == "rtsp-rs":
        return None if importlib.util.find_spec("rtsp") else "rtsp-rs is not installed"
    if not Path(SYSTEM_PYTHON).exists():
        return "no system Python for GStreamer"
    done = subprocess.run([SYSTEM_PYTHON, "-c", GSTREAMER], capture_output=True)
    packages = "gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-ugly and python3-gi"
    return None if done.returncode == 0 else f"GStreamer's server needs Debian's {packages}"


class RtspServer:
    """One of the servers; ``kill`` and ``start`` it as often as need be."""

    def __init__(self, kind: str, port: int, video: Path | None = None) -> None:
        """video: what rtsp-rs shows, ten pictures a second, until it is killed."""
        self.kind = kind
        self.port = port
        self.video = video
        self.url = f"rtsp://127.0.0.1:{port}/stream"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        ours = [sys.executable, "-m", "tests.support.rtsp"]
        command = ours if self.kind == "rtsp-rs" else [SYSTEM_PYTHON, "-c", GSTREAMER]
        self._process = subprocess.Popen(
            [*command, str(self.port), *([] if self.video is None else [str(self.video)])],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)


def two_halves() -> NDArray[np.uint8]:
    """uint8 96x160x3."""
    pixels = np.zeros((96, 160, 3), np.uint8)
    pixels[:, :80, 0] = pixels[:, 80:, 2] = 255
    return pixels


def serve(port: int, video: str | None) -> None:
    import rtsp

    server = rtsp.Server(f"127.0.0.1:{port}")
    server.start()
    packets = packets_of(video)
    print("ready", flush=True)
    due_s = time.monotonic()
    for packet in itertools.cycle(packets):
        server.send_frame(packet, 90_000 // FRAMES_PER_SECOND)
        due_s += 1 / FRAMES_PER_SECOND
        time.sleep(max(0.0, due_s - time.monotonic()))


def packets_of(video: str | None) -> list[bytes]:
    """H.264 of the two halves, or of a video, which can follow on itself."""
    import av

    if video is None:
        shown = itertools.repeat(av.VideoFrame.from_ndarray(two_halves()), 10)
        return encoded(160, 96, shown)
    with av.open(video) as container:
        stream = container.streams.video[0]
        return encoded(stream.width, stream.height, container.decode(stream))


def encoded(width: int, height: int, frames: Iterable[av.VideoFrame]) -> list[bytes]:
    import av

    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate = Fraction(FRAMES_PER_SECOND)
    encoder.options = {
        "tune": "zerolatency",
        "preset": "ultrafast",
        "g": "5",
        "crf": "28",
        "repeat-headers": "1",
    }
    packets: list[bytes] = []
    for number, frame in enumerate(frames):
        picture = frame.reformat(format="yuv420p")
        picture.pts, picture.time_base = number, Fraction(1, FRAMES_PER_SECOND)
        packets += map(bytes, encoder.encode(picture))
    return packets + [bytes(one) for one in encoder.encode(None)]


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
