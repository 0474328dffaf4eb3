"""The server's process: its settings, what they put together, the gRPC server and its life.

settings    a YAML file, variables, flags
service     opens the log, bundles, engine, fleet, and puts the server together
server      gRPC server, health, reflection, signals, drain
logs        structured logs on stderr
"""
