"""What a task's accuracy costs: bundles and rival codecs, over the bits of the original photo.

photo ── subject (a tail, or a codec before the network) ── (bytes, output) ── judge ── curves
"""
