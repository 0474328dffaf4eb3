"""Refinement: when a server asks for more layers of a frame, and how these join the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cloud_server.engine import EngineFrame, EngineOutcome
from cloud_server.ingest.bundles import ServedBundles
from shared.bitstream import Bitstream, format4
from shared.errors import BitstreamError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire.features import MAX_BITSTREAMS, check_together
from shared.wire.requests import Frame, Refine, parse_frame, parse_refine


@dataclass(frozen=True, slots=True)
class RefinePolicy:
    """Asks for layers of ``bundle_id`` (eight bytes) up to ``state`` after a doubtful result.

    Doubtful is one with a detection whose score lies from ``low`` to ``high``, both included; a
    detection below the results' threshold counts where it was made on features.
    """

    low: float
    high: float
    bundle_id: bytes
    state: int

    def command(
        self, sequence: int, frame: EngineFrame, outcome: EngineOutcome
    ) -> fleet_pb2.Command | None:
        """The command that goes with this outcome, if any.

        None also for a frame that has been refined already, or carries such layers.
        """
        if frame.refined is not None or outcome.analysis is None:
            return None
        if any(b.bundle_id == self.bundle_id and b.state <= self.state for b in frame.bitstreams):
            return None
        found = [
            item.score
            for result in outcome.analysis.tasks.values()
            for item in result.detections or ()
        ]
        if not any(self.low <= score <= self.high for score in (*found, *outcome.doubts)):
            return None
        command = fleet_pb2.Command(
            command_id=f"refine-{sequence}",
            refine_frame=fleet_pb2.RefineFrame(
                sequence=sequence, state=self.state, bundle_short_id=self.bundle_id
            ),
        )
        command.issued_at.GetCurrentTime()
        return command


def refined(
    kept: tuple[Bitstream, ...],
    refine: Refine,
    bundles: ServedBundles,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Bitstream, ...]:
    """The frame's bitstreams with the layers of ``refine``.

    Raises ``BitstreamError``: ``layer_gap`` when they do not follow on what the frame has, or do
    not begin where the bundle's bitstreams can; ``version_mismatch`` when they are of another
    format; ``limit_exceeded`` when the frame becomes too
    large; and ``BundleError("bundle_mismatch")``.
    """
    bundle_id = refine.bundle_id or kept[0].bundle_id
    first = refine.layers[0].state
    before = next((one for one in kept if one.bundle_id == bundle_id), None)
    if before is None:
        starts = bundles.of(bundle_id).manifest.starts
        if first not in starts:
            raise BitstreamError(
                "layer_gap",
                f"frame {refine.sequence} carries nothing of bundle {bundle_id.hex()}...; its "
                f"layers begin at state {' or '.join(map(str, starts))}, not {first}",
            )
        if len(kept) >= MAX_BITSTREAMS:
            raise BitstreamError("limit_exceeded", f"the frame has {len(kept)} bitstreams already")
    elif first != before.state - 1:
        raise BitstreamError(
            "layer_gap",
            f"frame {refine.sequence} is kept at state {before.state}; the next layer must be of "
            f"state {before.state - 1}, not {first}",
        )
    elif refine.version != before.version:
        raise BitstreamError(
            "version_mismatch",
            f"frame {refine.sequence} is kept in format {before.version}; layers of format "
            f"{refine.version} do not follow on it",
        )
    if before is None:
        width, height, state = kept[0].width, kept[0].height, refine.layers[-1].state
        grey = kept[0].grey and refine.version == format4.VERSION
        after = Bitstream(
            bundle_id, width, height, state, refine.layers, version=refine.version, grey=grey
        )
    else:
        layers = before.layers + refine.layers
        after = replace(before, state=layers[-1].state, layers=layers, partial=None)
    after.check(limits)
    if before is None:
        merged = (*kept, after)
    else:
        merged = tuple(after if one is before else one for one in kept)
    check_together(sum(one.file_bytes for one in merged), limits)
    return merged


def replayed(
    messages: Sequence[bytes], bundles: ServedBundles, limits: Limits = DEFAULT_LIMITS
) -> tuple[tuple[Bitstream, ...], Frame | Refine]:
    """A frame's bitstreams, made of its messages as they were received, and the last of these.

    messages: a serialised Frame, and the Refines behind it; one at least. Raises what parsing them
    and ``refined`` raise.
    """
    first = parse_frame(ingest_pb2.Frame.FromString(messages[0]), limits)
    bitstreams = first.bitstreams
    last: Frame | Refine = first
    for message in messages[1:]:
        last = parse_refine(ingest_pb2.Refine.FromString(message), limits)
        bitstreams = refined(bitstreams, last, bundles, limits)
    return bitstreams, last
