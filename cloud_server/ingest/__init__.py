"""The server's front: streams of frames in, results out; admission, dedupe, credits, drain.

servicer    the calls: Connect (over gRPC, or in memory), Analyze
stream      one Connect stream: Hello and Welcome, reader, writer
flow        how much of a stream is under way: limits, credits, the outbox
admission   its frames: checked, in the log, acknowledged, repeated
references  the values that predicted frames look at, beside the sessions
replies     what a client is told of each frame
processing  from a frame in the log to its result in the log, also after a restart
answers     results that are given again, while no value changes
sessions    sessions that are in use: their stream, what is in flight
refinement  when more layers are asked for, and what becomes of them
bundles     the bundles that are served, and their hand-over
"""
