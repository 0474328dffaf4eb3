"""The server's front: streams of frames in, results out; admission, dedupe, credits, drain.

servicer    the calls: Connect, Analyze
stream      one Connect stream: reader, writer, credits
intake      its frames: checked, in the log, acknowledged, repeated
processing  from a frame in the log to its result in the log, also after a restart
sessions    sessions that are in use: their stream, what is in flight
refinement  when more layers are asked for, and what becomes of them
bundles     hand-over of bundles
"""
