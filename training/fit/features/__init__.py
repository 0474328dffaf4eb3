"""Distances in the features of frozen networks, as losses of the fit step."""
