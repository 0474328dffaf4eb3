"""The server's front: streams of frames in, results out; admission, dedupe, credits, drain.

server      gRPC server, health, reflection, signals
servicer    the calls: Connect, Analyze
stream      one Connect stream: reader, writer, credits
sessions    what outlives a stream: which frames were accepted, results, layers for refinement
bundles     hand-over of bundles
"""
