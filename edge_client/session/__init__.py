"""Sessions with a server: frames out, results in.

with EdgeSession("localhost:7570") as session:
    result = session.send("photo.jpg", tasks=["detection"], picture=True)
    for result in session.stream(photos, state=4):
        ...
"""

from edge_client.session.channel import TlsClientFiles, split_address
from edge_client.session.result import FrameResult
from edge_client.session.session import EdgeSession

__all__ = ["EdgeSession", "FrameResult", "TlsClientFiles", "split_address"]
