"""The edge client: photos in, features out, over a session that survives a bad network."""
