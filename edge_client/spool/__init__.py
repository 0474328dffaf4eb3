"""Frames that no server has acknowledged yet, on disk: they survive kill -9 and power cuts.

with Spool.open("/var/lib/featherwire/spool", SpoolLimits(max_bytes=64 << 20)) as spool:
    sequence = spool.put(message, source="photo.jpg")
    ...
    spool.acknowledge(sequence)

spool     what is queued, sent, acknowledged and answered; memory and file, and healing
room      making room: by age, and by one of three policies when the spool is full
database  the SQLite file: how it is opened, locked, written, and what its errors mean
clock     age that no clock jump changes
"""

from edge_client.spool.room import Dropped, SpoolLimits, SpoolPolicy
from edge_client.spool.spool import Queued, Spool, SpoolStats

__all__ = ["Dropped", "Queued", "Spool", "SpoolLimits", "SpoolPolicy", "SpoolStats"]
