"""Pictures as coefficients of a lapped transform, on nested lattices: made for fidelity.

The edge's transform is linear at its start, and told in one chain of nested lattices. The cloud's
decoders of the same bits are the inverse transform and what networks add to it: ``faithful`` for
the least error, and where a bundle has it ``vivid``, for what looks like a photo.
"""

FAITHFUL = "faithful"
VIVID = "vivid"
