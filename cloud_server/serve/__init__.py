"""The server's process: its settings, what they put together, the gRPC server and its life.

settings    a YAML file, variables, flags
service     opens the log, bundles, engine, fleet, and puts the server together
startup     the database; what must be there before a server listens
observed    the engine, counted and timed
server      gRPC server, health, reflection, signals, drain
"""
