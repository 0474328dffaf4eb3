"""Traces across the wire: a frame's span on the edge is the parent of what the cloud does.

Only OpenTelemetry's API is needed to run, and without a configured SDK it does nothing. With the
extra ``telemetry`` and OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) in the
environment spans are exported over OTLP; all of the SDK's own variables hold, such as
OTEL_TRACES_SAMPLER. The parent travels as W3C Trace Context's ``traceparent``.
"""

from __future__ import annotations

import os
import re

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.errors import FeatherwireError
from shared.installation import install_command

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
_PROPAGATOR = TraceContextTextMapPropagator()


def tracer() -> Tracer:
    """The tracer of all of Featherwire's spans."""
    return trace.get_tracer("featherwire")


def tracing() -> bool:
    """Whether spans are kept anywhere; where they are not, none need be made."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def traceparent_of(span: Span) -> str:
    """A span as a ``traceparent``; empty when nothing is traced."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent", "")


def parent_of(traceparent: str) -> Context | None:
    """The context that a peer's ``traceparent`` names; None for what is none."""
    if not _TRACEPARENT.match(traceparent):
        return None
    return _PROPAGATOR.extract({"traceparent": traceparent})


def frame_span(name: str, kind: SpanKind, traceparent: str = "", **attributes: str | int) -> Span:
    """A span about one frame, to be ended by the caller. attributes: ``featherwire.`` is put before
    their names."""
    return tracer().start_span(
        name,
        context=parent_of(traceparent),
        kind=kind,
        attributes={f"featherwire.{key}": value for key, value in attributes.items()},
    )


def configure_tracing(service: str, version: str) -> bool:
    """Export spans when the environment names an endpoint; says whether it does.

    Raises FeatherwireError ``no_telemetry`` when it does and the extra is not installed. Spans that
    wait are exported when the process ends in good order.
    """
    if not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise FeatherwireError(
            "no_telemetry",
            f"an OTLP endpoint is set, but the extra is not installed: "
            f"{install_command('telemetry')}",
        ) from None
    resource = Resource.create({"service.name": service, "service.version": version})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True
