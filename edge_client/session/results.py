"""What a session returns for one frame."""

from __future__ import annotations

import io
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.session.frames import taken_at
from shared.errors import FeatherwireError, PhotoError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.results import AnalysisResult, TaskResult
from shared.wire import FrameOutcome, Picture


@dataclass(frozen=True, slots=True)
class FrameResult:
    """The outcome of one frame: an ``analysis``, or the ``error`` for which there is none.

    ``source`` is what was given to ``send`` or ``stream``. ``sequence`` is 0 when the frame never
    left, because it could not be encoded. ``round_trip_ms`` runs from sending to the result.
    ``state`` is of the bundle with short id ``bundle_id``: the frame's first, or the one that was
    refined. ``payload_bytes`` are of all its bundles. ``passes`` were sent of the layer after
    ``state``, 0 when the frame ended with that state.
    ``cursor`` is its place in the server's log, None when it has none; ``captured_at`` when the
    picture was taken, in seconds since 1970, None when nobody knows.
    ``refined`` says that the server asked for more of the frame, and this is what came of it after
    the result ``before``. ``refine_error`` says why nothing came, to a caller that waited for it.
    """

    source: Any
    sequence: int
    state: int | None
    payload_bytes: int
    round_trip_ms: float
    passes: int = 0
    analysis: AnalysisResult | None = None
    error: FeatherwireError | None = None
    task_errors: dict[str, FeatherwireError] = field(default_factory=dict)
    picture: Picture | None = None
    picture_error: FeatherwireError | None = None
    bundle_id: bytes = b""
    refined: bool = False
    before: FrameResult | None = None
    refine_error: FeatherwireError | None = None
    cursor: int | None = None
    captured_at: float | None = None

    @property
    def tasks(self) -> dict[str, TaskResult]:
        """Findings by task; empty when the frame failed."""
        return self.analysis.tasks if self.analysis is not None else {}

    def raise_for_error(self) -> FrameResult:
        """Raise what went wrong, the frame's error first, then a task's, then the picture's."""
        for error in (self.error, *self.task_errors.values(), self.picture_error):
            if error is not None:
                raise error
        return self

    def image(self) -> NDArray[np.uint8]:
        """The reconstruction, uint8 HxWx3 RGB. Raises ``PhotoError`` when there is none."""
        from PIL import Image, UnidentifiedImageError

        if self.picture is None:
            raise self.picture_error or PhotoError("no_picture", "no picture was asked for")
        try:
            with Image.open(io.BytesIO(self.picture.data), formats=["PNG", "WEBP"]) as image:
                # The header is compared before any pixel is decoded.
                if image.size != (self.picture.width, self.picture.height):
                    raise PhotoError("bad_picture", "the picture is not of the size it claims")
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
            raise PhotoError("bad_picture", f"the server's picture is damaged: {error}") from None


@dataclass(frozen=True, slots=True)
class Reply:
    """An outcome as it came: milliseconds since its request was sent, and the frame's numbers.

    ``state`` is of the bundle with short id ``bundle_id``. ``refinement`` is there when the server
    has asked for more layers of the frame: the reply to those. ``result_id``: the result's number
    in the session, 0 for one that is not kept there; ``cursor``: likewise in the server's log.
    ``captured_at``: when the picture was taken, as the server has it.
    """

    outcome: FrameOutcome
    sequence: int
    state: int
    round_trip_ms: float
    bundle_id: bytes = b""
    payload_bytes: int = 0
    passes: int = 0
    refinement: Future[Reply] | None = None
    result_id: int = 0
    cursor: int = 0
    captured_at: float | None = None


def captured_at_of(result: ingest_pb2.Result) -> float | None:
    """When the picture of a result was taken, in seconds since 1970; None from a server that does
    not say it."""
    if not result.HasField("captured_at"):
        return None
    return float(result.captured_at.seconds) + result.captured_at.nanos / 1e9


def received(reply: Reply, source: Any, *, before: FrameResult | None = None) -> FrameResult:
    """The result of a frame that came back; ``before`` is the one that it refines."""
    outcome = reply.outcome
    return FrameResult(
        source=source,
        sequence=reply.sequence,
        state=reply.state,
        payload_bytes=reply.payload_bytes or _analysed_bytes(reply),
        round_trip_ms=reply.round_trip_ms,
        passes=reply.passes,
        analysis=outcome.analysis,
        error=outcome.error,
        task_errors=outcome.task_errors,
        picture=outcome.picture,
        picture_error=outcome.picture_error,
        bundle_id=reply.bundle_id,
        refined=before is not None,
        before=before,
        cursor=reply.cursor or None,
        captured_at=reply.captured_at if (at := taken_at(source)) is None else at,
    )


def _analysed_bytes(reply: Reply) -> int:
    """Bytes, by the server's account, of a frame that another stream has sent."""
    analysis = reply.outcome.analysis
    return 0 if analysis is None else analysis.payload_bytes


def failed(
    source: Any,
    error: FeatherwireError,
    *,
    sequence: int = 0,
    before: FrameResult | None = None,
) -> FrameResult:
    """The result of a frame, or of a refinement, that never came back."""
    return FrameResult(
        source=source,
        sequence=sequence,
        state=None,
        payload_bytes=0,
        round_trip_ms=0.0,
        error=error,
        refined=before is not None,
        before=before,
        captured_at=taken_at(source),
    )
