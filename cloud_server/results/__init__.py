"""The log of frames and their results.

tables      frames as they were received, results by cursor
records     what goes in and comes out, as values
positions   where the log ends, counted by its one writer
log         ResultLog: accept a frame once, record its result once
queries     what is read of the log
feed        the newest results in memory, for those who follow
retention   what is forgotten, by age and bytes
"""
