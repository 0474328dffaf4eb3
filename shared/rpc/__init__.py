"""gRPC for both ends: addresses, TLS, tokens, channels, errors of calls."""
