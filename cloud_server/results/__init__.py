"""The log of frames and their results.

records             what goes in and comes out, as values
log                 ResultLog: accept a frame once, record its result once
sequence_counters   where the log ends, and whose a session is; the writer's thread counts
queries             what is read of the log
feed                the newest results in memory, for those who follow
retention           what is forgotten, by age and bytes

Its tables are in `cloud_server.database.schema`.
"""
