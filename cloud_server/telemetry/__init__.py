"""What a server shows to those who watch it: Prometheus metrics, OpenTelemetry traces, logs.

metrics   every metric by name, and the port where Prometheus reads them
frames    frames counted by bundle, state and outcome
logs      structured logs on stderr
"""
