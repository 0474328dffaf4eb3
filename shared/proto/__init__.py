"""Protobuf messages: the generated stubs, and the one place that converts and checks them."""
