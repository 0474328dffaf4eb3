"""Sending with a spool: a frame is on the disk before it is on its way.

exchange    photos out and results in, through a spool
sender      the thread that brings a spool's frames to a server, over many streams
key_frames  predicted frames for a server that could not decode them
unanswered  frames without a result, and results that nobody has taken
"""
