"""Fitting the context networks: samples of indices, float networks, rounding to integers."""
