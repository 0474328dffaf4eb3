"""What a server tells those who watch it: Prometheus metrics and OpenTelemetry traces."""

from __future__ import annotations

from cloud_server.telemetry.engine import ObservedEngine
from cloud_server.telemetry.exposition import MetricsServer
from cloud_server.telemetry.metrics import Metrics
from cloud_server.telemetry.notes import FrameNotes

__all__ = ["FrameNotes", "Metrics", "MetricsServer", "ObservedEngine"]
