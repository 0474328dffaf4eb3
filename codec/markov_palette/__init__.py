"""The Markov palette: nested palettes whose colours merge in pairs from state to state."""
