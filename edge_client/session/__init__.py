"""Sessions with a server: frames out, results in.

with EdgeSession("localhost:7570") as session:
    result = session.send("photo.jpg", tasks=["detection"], picture=True)
    for result in session.stream(photos, state=4):
        ...

session           EdgeSession, which every caller uses
direct            photos out and results in over one stream
spooled           the same through a spool, over as many streams as that takes
frames            photos as frames: what is asked of them, and at which rate
groups            what a frame may refer to, and when it must stand alone
encoding          one photo by several bundles: what is sent of each, what is kept back
refinement_store  what is kept back, until the server asks or ``refine`` sends it
opening           channel, Hello, and a bundle on which both ends agree
bundle_update     changing over to another bundle while the session runs
events            what a session tells of its connection, and of what an operator sets
connection        the stream: credits, numbering, the server's commands
"""

from edge_client.session.events import SessionEvents
from edge_client.session.frames import CapturedPhoto, Origin
from edge_client.session.groups import KeyEvery
from edge_client.session.results import FrameResult
from edge_client.session.session import EdgeSession
from shared.rpc.access import Access

__all__ = [
    "Access",
    "CapturedPhoto",
    "EdgeSession",
    "FrameResult",
    "KeyEvery",
    "Origin",
    "SessionEvents",
]
