"""How many frames a second the durable session takes, beside a bare gRPC echo of the same bytes.

payload   frames of a size
device    a device's end of one session, on asyncio
echo      the bare echo: its server, a process of its own, and its client
measure   both in turns, and the table
"""
