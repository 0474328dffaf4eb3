"""Figures of reconstructions: pixels, perception by two networks, and what tasks still find."""

from training.evaluate.metrics.base import METRICS, Metric, MetricGroup
from training.evaluate.metrics.groups import GROUPS, open_groups

__all__ = ["GROUPS", "METRICS", "Metric", "MetricGroup", "open_groups"]
