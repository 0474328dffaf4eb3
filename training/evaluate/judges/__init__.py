"""Judges: of reconstructions (pixels, perception, tasks), and of what networks say of a photo."""
