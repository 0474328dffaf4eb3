"""Several servers with one log in PostgreSQL (the setting `shared_log`).

membership   a server reports that it is alive; what a dead one has left goes to another
shared_log   one server's part: what the others have written, their devices and their commands

A session is one server's (`Ownership` in `cloud_server.results.sequence_counters`): another that it
moved to has taken it, frames and all. Every commit takes PostgreSQL's lock for its transaction
(`CommitLock` in `cloud_server.database.locks`). So numbers have no gaps, and who has read up to a
cursor never misses a smaller one. A commit holds up to 256 changes: servers wait for each other's
commits, not for each other's frames.
"""
