"""Sessions with a server: frames out, results in.

with EdgeSession("localhost:7570") as session:
    result = session.send("photo.jpg", tasks=["detection"], picture=True)
    for result in session.stream(photos, state=4):
        ...

describe    photos as frames: what is sent of each bundle, what is kept back
kept        what is kept back, until the server asks or ``refine`` sends it
wishes      tasks and pictures, as far as what is sent is enough for them
connection  the stream: credits, numbering, the server's commands
"""

from edge_client.session.result import FrameResult
from edge_client.session.session import EdgeSession
from edge_client.session.shot import Origin, Shot

__all__ = ["EdgeSession", "FrameResult", "Origin", "Shot"]
