"""Reading, writing and truncating .fwf files, of versions 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared.bitstream import format3, format4, varint
from shared.bitstream.framing import LayerReader, write_layers
from shared.bitstream.layers import (
    Header,
    Layer,
    PartialLayer,
    Reference,
    check_numbers,
    check_partial,
)
from shared.errors import BitstreamError
from shared.limits import DEFAULT_LIMITS, Limits

FORMAT_VERSIONS = (format3.VERSION, format4.VERSION)
"""Those that are read, and can be written."""
FORMAT_VERSION = 4
"""What is written where nothing else is asked for."""
BUNDLE_ID_BYTES = 8
"""Of a bundle's id: what names it in sessions, in a server's log and in files of version 3."""


@dataclass(frozen=True, slots=True, eq=False)
class Bitstream:
    """One picture as an embedded bitstream.

    bundle_id: first 8 bytes of the bundle's id; its first 4 where a file of version 4 was read,
    which has no more (see :meth:`made_with`). width, height: of the picture, in pixels. state: the
    finest complete state. layers: whole, coarsest first, states falling by one down to ``state``.
    partial: what has come of the next finer layer. version: of the format, 3 or 4, which also says
    how payloads are coded. reference: the frame that a predicted frame needs; None stands alone.
    grey: the photo had no colour, so its picture shall have none; version 3 cannot say that.

    What layers are about, grids of pixels or a class of ten bits, is their codec's matter.
    Equality compares what a file holds.
    """

    bundle_id: bytes
    width: int
    height: int
    state: int
    layers: tuple[Layer, ...]
    partial: PartialLayer | None = None
    version: int = FORMAT_VERSION
    reference: Reference | None = None
    grey: bool = False

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Bitstream) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (self._header(), self.layers, self.partial)

    def made_with(self, bundle_id: bytes) -> bool:
        """Whether it says that the bundle with this id, or with this beginning of one, wrote it."""
        return bool(self.bundle_id) and bundle_id.startswith(self.bundle_id)

    def to_bytes(self, *, with_bundle: bool = True) -> bytes:
        """The .fwf file; without its bundle's id for a session, which knows it (version 4 only).

        Raises BitstreamError when the fields contradict each other.
        """
        self.check()
        header = self._header(with_bundle=with_bundle)
        if self.version == format3.VERSION:
            crc = format3.chain_start(header)
            layers, _ = write_layers(self.layers, self.partial, crc, format3.layer_check_bytes)
            return format3.write_header(header) + layers
        crc = format4.chain_start(header, self.bundle_id)
        layers, crc = write_layers(self.layers, self.partial, crc, format4.layer_check_bytes)
        return format4.write_header(header, crc) + layers

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        limits: Limits = DEFAULT_LIMITS,
        allow_cut: bool = False,
        bundle_id: bytes = b"",
    ) -> Bitstream:
        """Parse a .fwf file, or the bytes of a session.

        With ``allow_cut`` a file whose end is missing yields the finest state that is complete;
        any other damage raises all the same. bundle_id: the first eight bytes of the id of the
        bundle that it is of, where that is known: bytes of a session need it. Raises BitstreamError
        with reason ``bad_magic``, ``bad_version``, ``bad_header``, ``truncated``, ``crc_mismatch``,
        ``limit_exceeded``, ``bad_size``, ``bad_state``, ``bad_passes``, ``bad_length``,
        ``bad_reference``, ``trailing_bytes``, ``bundle_missing`` or ``wrong_bundle``, and the
        offset.
        """
        if len(data) > limits.max_file_bytes:
            raise BitstreamError(
                "limit_exceeded",
                f"the file has {len(data)} bytes, more than {limits.max_file_bytes}",
            )
        header, size = read_header(data, limits)
        bundle_id = _bundle_of(header, bundle_id)
        if header.version == format3.VERSION:
            crc, check_bytes = format3.chain_start(header), format3.layer_check_bytes
        else:
            crc, check_bytes = format4.chain_start(header, bundle_id), format4.layer_check_bytes
        reader = LayerReader(data, size, crc, check_bytes, limits)
        reader.read(header)
        state, partial = header.state, reader.partial
        if reader.cut is not None:
            if not (allow_cut and reader.layers):
                raise reader.cut
            state, partial = reader.layers[-1].state, None
        elif reader.offset != len(data):
            raise BitstreamError(
                "trailing_bytes",
                f"{len(data) - reader.offset} bytes follow the last layer",
                offset=reader.offset,
            )
        elif header.version == format4.VERSION:
            format4.check_whole(data, size, reader.crc)
        return cls(
            bundle_id,
            header.width,
            header.height,
            state,
            reader.layers,
            partial,
            header.version,
            header.reference,
            header.grey,
        )

    def truncate(self, state: int) -> Bitstream:
        """The same picture at a complete ``state``, without decoding anything.

        Raises BitstreamError ``bad_state`` when that state is not present.
        """
        if not self.state <= state <= self.layers[0].state:
            coarsest = self.layers[0].state
            there = f"are {self.state} to {coarsest}"
            if self.state == coarsest:
                there = f"is {coarsest} alone, which is not made of coarser ones"
            raise BitstreamError(
                "bad_state", f"state {state} is not present; there {there}", state=state
            )
        kept = tuple(layer for layer in self.layers if layer.state >= state)
        return replace(self, state=state, layers=kept, partial=None)

    def cumulative_bytes(self) -> dict[int, int]:
        """Bytes of the file when truncated to each complete state, coarsest first."""
        total, sizes = 0, {}
        for number, layer in enumerate(self.layers, 1):
            total += layer_bytes(len(layer.payload), self.version)
            sizes[layer.state] = total + self.header_bytes(layer.state, number)
        return sizes

    @property
    def passes(self) -> int:
        """Passes that have come of the next finer layer; 0 where there is no part of it."""
        return self.partial.passes if self.partial is not None else 0

    @property
    def file_bytes(self) -> int:
        """Length of :meth:`to_bytes`'s result."""
        total = self.header_bytes(self.state, len(self.layers))
        total += sum(layer_bytes(len(layer.payload), self.version) for layer in self.layers)
        if self.partial is not None:
            passes, payload = self.partial.passes, self.partial.payload
            total += partial_layer_bytes(passes, len(payload), self.version)
        return total

    def header_bytes(self, state: int, layers: int) -> int:
        """Bytes of the file before its layers, at a state with that many of them."""
        return header_bytes(
            self.version,
            self.width,
            self.height,
            state,
            layers,
            reference=self.reference,
            grey=self.grey,
        )

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the whole file, headers included, per pixel of the picture."""
        return 8.0 * self.file_bytes / (self.width * self.height)

    def check(self, limits: Limits = DEFAULT_LIMITS) -> None:
        """Raise BitstreamError unless the fields fit each other and the limits."""
        if self.version not in FORMAT_VERSIONS:
            raise BitstreamError("bad_version", f"there is no format version {self.version}")
        short = self.version == format4.VERSION and len(self.bundle_id) == format4.BUNDLE_ID_BYTES
        if len(self.bundle_id) != BUNDLE_ID_BYTES and not short:
            raise BitstreamError("bad_bundle_id", "a bundle id here has 8 bytes")
        if self.reference is not None:
            if self.version == format3.VERSION:
                raise BitstreamError("bad_version", "format version 3 has no references to frames")
            self.reference.check()
        if self.grey and self.version == format3.VERSION:
            raise BitstreamError("bad_version", "format version 3 cannot say that a photo is grey")
        check_numbers(self.width, self.height, self.state, len(self.layers), limits)
        expected = range(self.state + len(self.layers) - 1, self.state - 1, -1)
        if [layer.state for layer in self.layers] != list(expected):
            raise BitstreamError("bad_state", "layers must fall by one state each")
        everything: list[Layer | PartialLayer] = [*self.layers]
        if self.partial is not None:
            check_partial(self.partial.state, self.partial.passes, self.state)
            everything.append(self.partial)
        for layer in everything:
            if len(layer.payload) > limits.max_layer_bytes:
                raise BitstreamError(
                    "limit_exceeded", f"layer of state {layer.state}: {len(layer.payload)} bytes"
                )

    def _header(self, *, with_bundle: bool = True) -> Header:
        bundle_id = self.bundle_id
        if self.version == format4.VERSION:
            bundle_id = bundle_id[: format4.BUNDLE_ID_BYTES] if with_bundle else b""
        return Header(
            self.version,
            bundle_id,
            self.width,
            self.height,
            self.state,
            len(self.layers),
            self.partial is not None,
            self.reference,
            self.grey,
        )


def is_file(data: bytes) -> bool:
    """Whether data begin as .fwf files do, of whatever version."""
    return data.startswith(format3.MAGIC) or format4.begins(data)


def read_header(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[Header, int]:
    """The header of a file or of a session's bytes, and how many bytes it has.

    Nothing vouches for a header of version 4 alone. Raises BitstreamError; see
    :meth:`Bitstream.from_bytes`.
    """
    if format4.begins(data):
        return format4.read_header(data, limits)
    if data.startswith(format3.MAGIC):
        return format3.read_header(data, limits), format3.HEADER_BYTES
    if format3.MAGIC.startswith(data):
        raise BitstreamError("truncated", "the data end inside the header", offset=len(data))
    raise BitstreamError("bad_magic", "this is not a .fwf file", offset=0)


def header_bytes(
    version: int,
    width: int,
    height: int,
    state: int,
    layers: int,
    *,
    reference: Reference | None = None,
    grey: bool = False,
) -> int:
    """Bytes of a file before its layers."""
    if version == format3.VERSION:
        return format3.HEADER_BYTES
    some_id = bytes(format4.BUNDLE_ID_BYTES)
    return format4.header_bytes(
        Header(version, some_id, width, height, state, layers, False, reference, grey)
    )


def layer_bytes(payload_bytes: int, version: int) -> int:
    """Bytes that a layer of ``payload_bytes`` takes in the file, framing included."""
    check_bytes = (
        format3.layer_check_bytes if version == format3.VERSION else format4.layer_check_bytes
    )
    return varint.size(payload_bytes) + check_bytes(payload_bytes) + payload_bytes


def partial_layer_bytes(passes: int, payload_bytes: int, version: int) -> int:
    """Bytes that the first ``passes`` of a layer take in the file, framing included."""
    return varint.size(passes) + layer_bytes(payload_bytes, version)


def _bundle_of(header: Header, known: bytes) -> bytes:
    """The bundle's id as far as it is known: the caller's, or else the file's."""
    if not known and not header.bundle_id:
        raise BitstreamError(
            "bundle_missing",
            "these are bytes of a session, which do not say of which bundle they are",
        )
    if known and not known.startswith(header.bundle_id):
        raise BitstreamError(
            "wrong_bundle",
            f"made with bundle {header.bundle_id.hex()}, not {known.hex()}",
            wanted=header.bundle_id.hex(),
            have=known.hex(),
        )
    return known or header.bundle_id
