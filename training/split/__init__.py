"""A frozen network cut in two: a bottleneck for the edge, and a tail for the cloud that fits it."""
