"""What a bitstream is made of, whatever the version of the file: layers, parts, a reference."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import google_crc32c

from shared.errors import BitstreamError
from shared.limits import Limits

MAX_STATE = 255
MAX_PASSES = 2**14 - 1
MAX_DISTANCE = 2**28 - 1
REFERENCE_CHECKSUM_BYTES = 4
_PASSES = struct.Struct("<H")

# Of each state's byte, which a layer's checksum begins with.
_STATE_CRCS = [int(google_crc32c.value(bytes([state]))) for state in range(MAX_STATE + 1)]


@dataclass(frozen=True, slots=True)
class Layer:
    """What takes a picture from state ``state + 1`` to ``state``; the payload is the codec's."""

    state: int
    payload: bytes

    @property
    def crc32c(self) -> int:
        """CRC-32C of the state (one byte) and the payload, for transport of a lone layer."""
        return int(google_crc32c.extend(_STATE_CRCS[self.state], self.payload))


@dataclass(frozen=True, slots=True)
class PartialLayer:
    """The first ``passes`` (1 to 2**14 - 1) of a layer's passes."""

    state: int
    passes: int
    payload: bytes

    @property
    def crc32c(self) -> int:
        """CRC-32C of the state (one byte), the passes (two) and the payload, for transport."""
        return chain(0, label(self.state, self.passes), self.payload)


@dataclass(frozen=True, slots=True)
class Reference:
    """The frame that a predicted frame is decoded with.

    distance: how many frames back it is, 1 to 2**28 - 1, in the numbering of the session. checksum:
    four bytes, :meth:`codec.base.Half.reference_checksum` of what it is decoded to.
    """

    distance: int
    checksum: bytes

    def check(self) -> None:
        """Raise BitstreamError ``bad_reference`` for what no frame can refer to."""
        if not 1 <= self.distance <= MAX_DISTANCE:
            raise BitstreamError(
                "bad_reference", f"a reference {self.distance} frames back; there are 1 and more"
            )
        if len(self.checksum) != REFERENCE_CHECKSUM_BYTES:
            raise BitstreamError("bad_reference", "a reference's checksum has four bytes")


@dataclass(frozen=True, slots=True)
class Header:
    """What the beginning of a file says.

    layers: how many whole ones follow; has_partial: a part of the next one comes after them.
    bundle_id: as it stands in the file, eight bytes or four; empty where there is none. grey: the
    photo had no colour.
    """

    version: int
    bundle_id: bytes
    width: int
    height: int
    state: int
    layers: int
    has_partial: bool
    reference: Reference | None
    grey: bool = False

    def check(self, limits: Limits, *, sides_at: int, state_at: int) -> None:
        """Raise BitstreamError ``bad_size``, ``limit_exceeded`` or ``bad_state``.

        sides_at, state_at: offsets in the file, for the error.
        """
        check_numbers(self.width, self.height, self.state, self.layers, limits, sides_at, state_at)
        if self.has_partial and self.state == 0:
            raise BitstreamError("bad_state", "nothing can follow state 0", offset=state_at)


def check_numbers(
    width: int,
    height: int,
    state: int,
    count: int,
    limits: Limits,
    sides_at: int | None = None,
    state_at: int | None = None,
) -> None:
    """Raise BitstreamError unless sides, state and number of layers are within bounds."""
    for side in (width, height):
        if not limits.min_side <= side <= limits.max_side:
            raise BitstreamError(
                "bad_size",
                f"{width}x{height} pixels; sides must be {limits.min_side} to {limits.max_side}",
                offset=sides_at,
            )
    if not 1 <= count <= limits.max_layers:
        raise BitstreamError("limit_exceeded", f"{count} layers", offset=state_at)
    if state < 0 or state + count - 1 > MAX_STATE:
        raise BitstreamError("bad_state", f"state {state} with {count} layers", offset=state_at)


def check_partial(state: int, passes: int, whole_state: int) -> None:
    """Raise BitstreamError unless such a part can follow a bitstream of ``whole_state``."""
    if state != whole_state - 1 or state < 0:
        raise BitstreamError("bad_state", f"a partial layer of state {state} after {whole_state}")
    check_passes(passes)


def check_passes(passes: int, offset: int | None = None) -> None:
    """Raise BitstreamError ``bad_passes`` for a number that no part can have."""
    if not 1 <= passes <= MAX_PASSES:
        raise BitstreamError(
            "bad_passes", f"{passes} passes; there are 1 to {MAX_PASSES}", offset=offset
        )


def chain(crc: int, labelled: bytes, payload: bytes) -> int:
    """The running CRC-32C behind one more layer."""
    return int(google_crc32c.extend(google_crc32c.extend(crc, labelled), payload))


def label(state: int, passes: int | None = None) -> bytes:
    """Which layer, or the first passes of which: what its checksum covers before the payload."""
    return bytes([state]) + (b"" if passes is None else _PASSES.pack(passes))
