"""Who may call what.

tokens          random secrets with a role, kept as hashes in the server's database
access          the calls that each role may make, and the interceptor that holds them to it
development_ca  certificates for trials
"""
