"""Training of the lattice palette: a frozen network cut in two, a bottleneck between its halves."""
