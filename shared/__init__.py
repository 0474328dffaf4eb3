"""What the edge and the cloud have in common: bitstream, palette, entropy coder, bundle."""
