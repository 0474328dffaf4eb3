"""Rate and distortion of bundles and of rival codecs, whole files against whole files."""
