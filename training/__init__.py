"""The recipe that makes a bundle: photos, extractor, palettes, tables, decoder."""
