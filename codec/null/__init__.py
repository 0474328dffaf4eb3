"""The null codec: a JPEG in a layer. The least that a codec has to be; others must beat it."""
