"""A camera's web server.

camera  requests to one, with redirects, passwords and proxies, and what it sends as it comes
auth    Digest and Basic
"""
