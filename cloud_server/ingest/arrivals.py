"""A frame on its way from a message to the log, with its span where anything is traced."""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, set_span_in_context

from cloud_server.engine import EngineFrame
from cloud_server.results.records import NewFrame, SessionKey
from shared.wire.tracing import frame_span, tracer


@dataclass(slots=True)
class Arrival:
    """A frame that was checked; ``span`` lasts while it is here, ``logging`` until it is kept."""

    frame: NewFrame
    engine_frame: EngineFrame
    span: Span = INVALID_SPAN
    logging: Span = INVALID_SPAN

    @property
    def pixels(self) -> int:
        """Of the picture; none of a frame that is only kept."""
        return 0 if self.engine_frame.asks_nothing else self.engine_frame.pixels

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return len(self.frame.message)

    def begin(self, key: SessionKey, traceparent: str) -> None:
        """Open its spans."""
        device, session = key
        self.span = frame_span(
            "frame", SpanKind.SERVER, traceparent, device=device, session=session,
            sequence=self.frame.sequence,
        )  # fmt: skip
        self.logging = tracer().start_span("log", context=set_span_in_context(self.span))
