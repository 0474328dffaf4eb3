"""Training of nested lattices: palettes, the contexts of key and predicted frames, a small one."""
