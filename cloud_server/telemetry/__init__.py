"""What a server shows to those who watch it: Prometheus metrics, OpenTelemetry traces, logs.

metrics   every metric by name, frames counted by bundle, state and outcome, and the port where
          Prometheus reads them
logs      structured logs on stderr
"""
