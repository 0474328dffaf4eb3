"""A camera that shows Motion JPEG over HTTP."""

from __future__ import annotations

import io
import time
from http.server import BaseHTTPRequestHandler

import numpy as np
from PIL import Image


def jpeg(grey: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), grey, np.uint8)).save(data, "JPEG")
    return data.getvalue()


def camera(
    request: BaseHTTPRequestHandler, *, pictures: int, pause_s: float = 0.01, lengths: bool = True
) -> None:
    """Sends pictures of grey 0, 10, 20, ..., then ends the stream."""
    request.send_response(200)
    request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
    request.end_headers()
    try:
        for number in range(pictures):
            one = jpeg(10 * number % 250)
            length = f"Content-Length: {len(one)}\r\n" if lengths else ""
            stamp = f"X-Timestamp: {time.time() - 2:.3f}\r\n"
            head = f"--frame\r\nContent-Type: image/jpeg\r\n{length}{stamp}\r\n"
            request.wfile.write(head.encode() + one + b"\r\n")
            request.wfile.flush()
            time.sleep(pause_s)
    except OSError:
        pass  # the client has gone
