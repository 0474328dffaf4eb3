"""How many frames a second the durable session takes, beside a bare gRPC echo of the same bytes.

device    one session, and frames of a size
echo      the bare echo: its server, a process of its own, and its client
measure   both in turns, and the table
"""
