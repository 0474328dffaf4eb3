"""Generated from protos/featherwire; see shared/proto/generate.py."""
