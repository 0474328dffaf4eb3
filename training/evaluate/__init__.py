"""Rate, distortion, perception and accuracy of bundles beside rival codecs, whole files."""
