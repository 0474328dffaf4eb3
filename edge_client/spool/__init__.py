"""Frames that no server has acknowledged yet, on disk: they survive kill -9 and power cuts.

with Spool.open("/var/lib/featherwire/spool", SpoolLimits(max_bytes=64 << 20)) as spool:
    sequence = spool.put(message, source="photo.jpg")
    ...
    spool.acknowledge(sequence)

spool     what is queued, sent, acknowledged and answered
records   what it tells of frames, and which results were seen
losses    what it gives up for room, for age, for damage
room      how room is made: by age, and by one of three policies when the spool is full
groups    groups of pictures: to which one a frame belongs, and how long one is kept
file      memory and file, which change together; healing of a damaged one
database  the SQLite file: how it is opened, locked, written, and what its errors mean
clock     age that no clock jump changes
"""

from edge_client.spool.records import Queued, SpoolStats
from edge_client.spool.room import Dropped, SpoolLimits, SpoolPolicy
from edge_client.spool.spool import Spool

__all__ = ["Dropped", "Queued", "Spool", "SpoolLimits", "SpoolPolicy", "SpoolStats"]
