"""Networks that can be cut in two, and where."""
