"""Training of decoders on the bits of a bundle that is there."""
