"""How pictures are painted: the decoder's networks on any window, and what must be painted anew."""
