"""Codecs: a folder each, found by the name in a bundle's manifest."""
