"""Nested lattices: every finer state splits each step in three, and frames may be predicted."""
