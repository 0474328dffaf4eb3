"""Several servers with one log in PostgreSQL (the setting `shared_log`).

tables       servers that live, whose a session is, who wrote last
turn         one server writes at a time, for one commit; cursors are numbered in the order of commits
ownership    a session is one server's: another that it moved to has taken it, frames and all
membership   a server says that it lives; the sessions of one that does not go to the others
tail         what other servers have written comes to those who follow the log here

Every commit takes PostgreSQL's lock for its transaction (`turn`). So numbers have no gaps, and who has
read up to a cursor never misses a smaller one. A commit holds up to 256 changes, so that servers share
fsyncs, not frames.
"""
