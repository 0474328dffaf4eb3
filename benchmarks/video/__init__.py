"""`python -m benchmarks --video`: streams beside x264, x265 and SVT-AV1, at equal accuracy."""
