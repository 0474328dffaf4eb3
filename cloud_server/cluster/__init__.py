"""Several servers with one log in PostgreSQL (the setting `shared_log`).

tables       servers that live, whose a session is, who wrote last
turn         one server writes at a time, for one commit; cursors are in the order of commits
ownership    a session is one server's: another that it moved to has taken it, frames and all
membership   a server says that it lives; what one that does not has left goes to another
tail         what other servers have written comes to those who follow the log here
fleet        devices and commands of other servers
shared_log   all of it, as one server's part

Every commit takes PostgreSQL's lock for its transaction (`turn`). So numbers have no gaps, and who
has read up to a cursor never misses a smaller one. A commit holds up to 256 changes: servers wait
for each other's commits, not for each other's frames.
"""
