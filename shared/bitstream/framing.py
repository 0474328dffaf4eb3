"""How layers follow each other in a file: length, checksum, payload; the same in every version.

Versions differ in how many bytes of the running checksum stand with a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from shared.bitstream import varint
from shared.bitstream.layers import (
    Header,
    Layer,
    PartialLayer,
    chain,
    check_passes,
    label,
)
from shared.errors import BitstreamError
from shared.limits import Limits

CheckBytes: TypeAlias = Callable[[int], int]
"""How many bytes of checksum a layer has, by the bytes of its payload."""


def write_layers(
    layers: tuple[Layer, ...], partial: PartialLayer | None, crc: int, check_bytes: CheckBytes
) -> tuple[bytes, int]:
    """The layers as they stand in the file, and the running CRC-32C behind them.

    crc: what it is before them. check_bytes: of it, the lowest first, that stand with a layer of
    so many bytes.
    """
    parts: list[bytes] = []
    for layer in layers:
        crc = chain(crc, label(layer.state), layer.payload)
        parts += [*_prefix(layer.payload, crc, check_bytes), layer.payload]
    if partial is not None:
        crc = chain(crc, label(partial.state, partial.passes), partial.payload)
        parts += [varint.encode(partial.passes), *_prefix(partial.payload, crc, check_bytes)]
        parts += [partial.payload]
    return b"".join(parts), crc


@dataclass(slots=True)
class LayerReader:
    """Reads what :func:`write_layers` wrote. After :meth:`read` all of it is in the fields.

    cut: where the data end before the last layer does, what is said of it; ``layers`` are those
    that are complete then.
    """

    data: bytes
    offset: int
    crc: int
    check_bytes: CheckBytes
    limits: Limits
    layers: tuple[Layer, ...] = ()
    partial: PartialLayer | None = None
    cut: BitstreamError | None = None

    def read(self, header: Header) -> None:
        """Read the layers that the header announces. Raises BitstreamError for all damage but a
        missing end: ``crc_mismatch``, ``limit_exceeded``, ``bad_passes``, ``bad_length``."""
        try:
            for state in range(header.state + header.layers - 1, header.state - 1, -1):
                self.layers += (Layer(state, self._payload(state)),)
            if header.has_partial:
                passes, offset = varint.decode(self.data, self.offset)
                check_passes(passes, self.offset)
                self.offset = offset
                payload = self._payload(header.state - 1, passes)
                self.partial = PartialLayer(header.state - 1, passes, payload)
        except BitstreamError as error:
            if error.reason != "truncated":
                raise
            self.cut = error

    def _payload(self, state: int, passes: int | None = None) -> bytes:
        """Length, checksum and payload; ``passes`` of a partial layer."""
        start = self.offset
        length, offset = varint.decode(self.data, start)
        if length > self.limits.max_layer_bytes:
            raise BitstreamError(
                "limit_exceeded",
                f"layer of state {state}: {length} bytes, more than {self.limits.max_layer_bytes}",
                offset=start,
            )
        begins = offset + self.check_bytes(length)
        if begins + length > len(self.data):
            raise BitstreamError(
                "truncated", f"the data end inside the layer of state {state}", offset=start
            )
        payload = self.data[begins : begins + length]
        crc = chain(self.crc, label(state, passes), payload)
        if self.data[offset:begins] != _check(crc, begins - offset):
            raise BitstreamError(
                "crc_mismatch", f"the layer of state {state} is damaged", offset=begins
            )
        self.crc, self.offset = crc, begins + length
        return payload


def _prefix(payload: bytes, crc: int, check_bytes: CheckBytes) -> tuple[bytes, bytes]:
    length = len(payload)
    return varint.encode(length), _check(crc, check_bytes(length))


def _check(crc: int, check_bytes: int) -> bytes:
    return (crc & (1 << 8 * check_bytes) - 1).to_bytes(check_bytes, "little")
