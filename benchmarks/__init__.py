"""Measurements, and the demo. Not installed: run from a checkout."""
