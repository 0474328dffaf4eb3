"""The Markov palette: nested palettes whose colours merge in pairs from state to state."""

FAITHFUL = "faithful"
VIVID = "vivid"
"""Its decoders: the conditional mean, and a sample of the backward chain."""
