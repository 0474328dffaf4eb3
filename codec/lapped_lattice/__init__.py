"""Pictures as coefficients of a lapped transform, on nested lattices: made for fidelity.

The edge's transform is linear at its start, and told in one chain of nested lattices; the cloud's
``faithful`` decoder is the inverse transform and what a network adds to it.
"""

FAITHFUL = "faithful"
