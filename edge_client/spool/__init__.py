"""Frames that no server has acknowledged yet, on disk: they survive kill -9 and power cuts.

with Spool.open("/var/lib/featherwire/spool", SpoolLimits(max_bytes=64 << 20)) as spool:
    sequence = spool.put(message, source="photo.jpg")
    ...
    spool.acknowledge(sequence)

spool     what is queued, sent, acknowledged and answered
ledger    session, numbering, clock and counts, and what was dropped
room      making room: by age, and by one of three policies when the spool is full
coarsen   a queued frame at a coarser state
database  the SQLite file: how it is opened, locked, written, and what its errors mean
clock     age that no clock jump changes
"""

from edge_client.spool.ledger import Dropped
from edge_client.spool.room import SpoolLimits, SpoolPolicy
from edge_client.spool.spool import Queued, Spool, SpoolStats

__all__ = ["Dropped", "Queued", "Spool", "SpoolLimits", "SpoolPolicy", "SpoolStats"]
