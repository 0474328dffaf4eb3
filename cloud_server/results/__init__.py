"""The log of frames and their results.

records             what goes in and comes out, as values
log                 ResultLog: accept a frame once, record its result once
sequence_counters   where the log ends, and whose a session is; the writer's thread counts
queries             what is read of the log
feed                the newest results in memory, for those who follow
retention           what is forgotten, by age and bytes
membership          heartbeats of servers that share a log; what a dead one has left goes to another
shared_log          one server's part in a shared log: what the others have written, their devices

Several servers may have one log in PostgreSQL (the setting `shared_log`). A session is one server's
(`Ownership` in `sequence_counters`): another that it moved to has taken it, frames and all. Every
commit takes PostgreSQL's lock for its transaction (`CommitLock` in `cloud_server.database.locks`).
So numbers have no gaps, and who has read up to a cursor never misses a smaller one. A commit holds
up to 256 changes: servers wait for each other's commits, not for each other's frames.

Its tables are in `cloud_server.database.schema`.
"""
