"""Who this client is: what it tells a server of itself."""

from __future__ import annotations

import re
import socket


def default_device_name() -> str:
    """This machine's host name, in the alphabet of device names."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:128] or "device"
