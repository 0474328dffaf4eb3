"""Who may call what.

roles           device, operator, consumer; the table of calls that each may make
tokens          random secrets, kept as hashes in the server's database
tables          the table that they are in
caller          who makes the call that is being served
interceptor     asks every call for its token, and ends those whose token is revoked
startup         what a server must have before it listens
development_ca  certificates for trials
"""
