"""Calls over gRPC, for both ends: how to come in, channels and their options, errors of calls."""
