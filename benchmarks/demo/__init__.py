"""`make demo`: a real server, a real edge client, real photos, all three tasks, and streams."""
