"""What both ends know: bitstream, bundle, messages, preprocessing, results, sinks, errors."""
