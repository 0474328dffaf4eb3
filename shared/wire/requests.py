"""Hello, Frame, Refine and their kin: checked when they arrive, built when they leave.

Everything here is cheap: sizes and alphabets are compared with limits, checksums are computed over
bytes that are already in memory, and nothing is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp

from shared.bitstream import FORMAT_VERSION, Bitstream, Layer, format3
from shared.errors import SessionError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import ingest_pb2, types_pb2
from shared.wire.features import (
    features_message,
    layer_message,
    parse_bitstreams,
    parse_layers,
    parse_short_id,
)
from shared.wire.formats import check_client
from shared.wire.transport import PROTOCOL_VERSION

MAX_SEQUENCE = 2**63 - 1
MAX_TASKS = 16
MAX_BUNDLES = 16
MAX_LABELS = 32
MAX_FORMATS = 64
MAX_AWAITED = 1024

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TASK = re.compile(r"[a-z][a-z0-9_]{0,63}")
_BUNDLE_ID = re.compile(r"[0-9a-f]{64}")
_DECODER = re.compile(r"[a-z][a-z0-9-]{0,39}")
MAX_SEED = 2**63 - 1


class PictureEncoding(StrEnum):
    """How a reconstruction is encoded on its way back."""

    PNG = "png"
    WEBP = "webp"
    WEBP_LOSSLESS = "webp_lossless"

    @property
    def suffix(self) -> str:
        """File name suffix with its dot."""
        return ".png" if self is PictureEncoding.PNG else ".webp"


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """Asks for the reconstruction.

    quality: 1..100 for lossy WebP, 0 is the server's. decoder: one of the bundle's ``pictures`` by
    name; empty is the first of them. seed: 0 to 2^63 - 1, of what that decoder draws by chance.
    """

    encoding: PictureEncoding = PictureEncoding.PNG
    quality: int = 0
    decoder: str = ""
    seed: int = 0


_ENCODING_BY_NUMBER = {
    types_pb2.PICTURE_ENCODING_UNSPECIFIED: PictureEncoding.PNG,
    types_pb2.PICTURE_ENCODING_PNG: PictureEncoding.PNG,
    types_pb2.PICTURE_ENCODING_WEBP: PictureEncoding.WEBP,
    types_pb2.PICTURE_ENCODING_WEBP_LOSSLESS: PictureEncoding.WEBP_LOSSLESS,
}
NUMBER_BY_ENCODING = {
    PictureEncoding.PNG: types_pb2.PICTURE_ENCODING_PNG,
    PictureEncoding.WEBP: types_pb2.PICTURE_ENCODING_WEBP,
    PictureEncoding.WEBP_LOSSLESS: types_pb2.PICTURE_ENCODING_WEBP_LOSSLESS,
}


@dataclass(frozen=True, slots=True)
class Hello:
    """A client's opening; ``bundle_id`` is None when the server shall choose.

    ``also_bundle_ids`` are those of which the client can send layers when it is asked.
    ``format_versions``: of bitstreams that it can write; none is 3 alone.
    """

    device: str
    session: str
    bundle_id: str | None = None
    can_switch_bundle: bool = False
    last_result_seen: int = 0
    client_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    also_bundle_ids: tuple[str, ...] = ()
    takes_batches: bool = False
    format_versions: tuple[int, ...] = ()
    awaited: tuple[int, ...] = ()
    """Sequences that the server has acknowledged, and whose results the client does not have."""
    predicts: bool = False
    """Its frames may refer to frames before them, and it knows the command ``key_frame``."""
    renews: bool = False
    """It begins another session where one of its sequences is taken by another picture."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture's features and what is wanted of them; ``captured_at`` is aware, or None.

    ``bitstreams``: one or more, each of another bundle, all of one width and height.
    """

    sequence: int
    bitstreams: tuple[Bitstream, ...]
    tasks: tuple[str, ...] = ()
    picture: PictureRequest | None = None
    captured_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refine:
    """Finer layers for an earlier frame, coarsest first.

    ``bundle_id``: the first eight bytes of its bundle's id; empty is the frame's first bundle.
    ``version``: of the format of the bitstream that the layers are of.
    """

    sequence: int
    layers: tuple[Layer, ...]
    tasks: tuple[str, ...] = ()
    picture: PictureRequest | None = None
    bundle_id: bytes = b""
    version: int = FORMAT_VERSION


# -- arriving ------------------------------------------------------------------------------------


def parse_hello(message: ingest_pb2.Hello) -> Hello:
    """Check an opening; raises ``SessionError`` (unsupported_version, invalid_message)."""
    if message.protocol_version != PROTOCOL_VERSION:
        raise SessionError(
            "unsupported_version",
            f"the client speaks protocol version {message.protocol_version}, this server "
            f"{PROTOCOL_VERSION}; use a client of the server's release",
            protocol_version=PROTOCOL_VERSION,
        )
    if message.bundle_id and not _BUNDLE_ID.fullmatch(message.bundle_id):
        raise _invalid("bundle_id", "is not 64 lower-case hexadecimal digits")
    if message.last_result_seen > MAX_SEQUENCE:
        raise _invalid("last_result_seen", "is out of range")
    if len(message.client_version) > 128:
        raise _invalid("client_version", "is longer than 128 characters")
    check_labels(message.labels)
    if len(message.format_versions) > MAX_FORMATS:
        raise _invalid("format_versions", f"are more than {MAX_FORMATS}")
    check_client(message.format_versions)
    if len(message.awaited) > MAX_AWAITED or not all(
        1 <= sequence <= MAX_SEQUENCE for sequence in message.awaited
    ):
        raise _invalid("awaited", f"are more than {MAX_AWAITED}, or no sequences")
    if len(message.also_bundle_ids) > MAX_BUNDLES or not all(
        _BUNDLE_ID.fullmatch(bundle_id) for bundle_id in message.also_bundle_ids
    ):
        raise _invalid("also_bundle_ids", f"are more than {MAX_BUNDLES}, or no ids")
    return Hello(
        device=check_name("device", message.device),
        session=check_name("session", message.session),
        bundle_id=message.bundle_id or None,
        can_switch_bundle=message.can_switch_bundle,
        last_result_seen=message.last_result_seen,
        client_version=message.client_version,
        labels=dict(message.labels),
        also_bundle_ids=tuple(dict.fromkeys(message.also_bundle_ids)),
        takes_batches=message.takes_batches,
        format_versions=tuple(message.format_versions),
        awaited=tuple(dict.fromkeys(message.awaited)),
        predicts=message.predicts,
        renews=message.renews,
    )


def parse_frame(message: ingest_pb2.Frame, limits: Limits = DEFAULT_LIMITS) -> Frame:
    """Check a frame; raises ``SessionError``, or ``BitstreamError`` for its features."""
    sequence = _sequence(message.sequence)
    tasks = parse_tasks(message.tasks)
    picture = parse_picture_request(message.picture) if message.HasField("picture") else None
    captured_at = _instant(message.captured_at) if message.HasField("captured_at") else None
    bitstreams = parse_bitstreams(message.features, limits)
    return Frame(sequence, bitstreams, tasks, picture, captured_at)


def parse_refine(message: ingest_pb2.Refine, limits: Limits = DEFAULT_LIMITS) -> Refine:
    """Check a refinement; raises like ``parse_frame``."""
    sequence = _sequence(message.sequence)
    tasks = parse_tasks(message.tasks)
    picture = parse_picture_request(message.picture) if message.HasField("picture") else None
    bundle_id = parse_short_id(message.bundle_short_id)
    version = message.format_version or format3.VERSION
    layers = parse_layers(message.layers, limits)
    return Refine(sequence, layers, tasks, picture, bundle_id, version)


def parse_tasks(names: Iterable[str]) -> tuple[str, ...]:
    """Names of tasks without repetition; raises ``SessionError("invalid_message")``."""
    tasks = tuple(dict.fromkeys(names))
    if len(tasks) > MAX_TASKS or not all(_TASK.fullmatch(task) for task in tasks):
        raise _invalid("tasks", f"are more than {MAX_TASKS}, or no snake_case names")
    return tasks


def parse_picture_request(message: types_pb2.PictureRequest) -> PictureRequest:
    """Check what is asked of a reconstruction; raises ``SessionError("invalid_message")``."""
    encoding = _ENCODING_BY_NUMBER.get(message.encoding)
    if encoding is None:
        raise _invalid("picture.encoding", f"{message.encoding} is unknown")
    if message.quality > 100:
        raise _invalid("picture.quality", f"{message.quality} is above 100")
    if message.decoder and not _DECODER.fullmatch(message.decoder):
        raise _invalid("picture.decoder", "is no name of a decoder")
    if message.seed > MAX_SEED:
        raise _invalid("picture.seed", f"{message.seed} is not 0..2^63-1")
    return PictureRequest(encoding, message.quality, message.decoder, message.seed)


# -- leaving -------------------------------------------------------------------------------------


def hello_message(hello: Hello) -> ingest_pb2.Hello:
    """``hello`` as its message."""
    return ingest_pb2.Hello(
        protocol_version=PROTOCOL_VERSION,
        device=check_name("device", hello.device),
        session=check_name("session", hello.session),
        bundle_id=hello.bundle_id or "",
        can_switch_bundle=hello.can_switch_bundle,
        last_result_seen=hello.last_result_seen,
        client_version=hello.client_version,
        labels=hello.labels,
        also_bundle_ids=hello.also_bundle_ids,
        takes_batches=hello.takes_batches,
        format_versions=hello.format_versions,
        awaited=hello.awaited,
        predicts=hello.predicts,
        renews=hello.renews,
    )


def frame_message(frame: Frame) -> ingest_pb2.Frame:
    """``frame`` as its message."""
    message = ingest_pb2.Frame(
        sequence=frame.sequence,
        features=[features_message(bitstream) for bitstream in frame.bitstreams],
        tasks=frame.tasks,
        picture=picture_request_message(frame.picture),
    )
    if frame.captured_at is not None:
        message.captured_at.FromDatetime(frame.captured_at)
    return message


def refine_message(refine: Refine) -> ingest_pb2.Refine:
    """``refine`` as its message."""
    return ingest_pb2.Refine(
        sequence=refine.sequence,
        layers=[layer_message(layer) for layer in refine.layers],
        tasks=refine.tasks,
        picture=picture_request_message(refine.picture),
        bundle_short_id=refine.bundle_id,
        format_version=refine.version,
    )


def picture_request_message(request: PictureRequest | None) -> types_pb2.PictureRequest | None:
    """``request`` as its message; None stays None, which leaves the field absent."""
    if request is None:
        return None
    return types_pb2.PictureRequest(
        encoding=NUMBER_BY_ENCODING[request.encoding],
        quality=request.quality,
        decoder=request.decoder,
        seed=request.seed,
    )


# -- parts ---------------------------------------------------------------------------------------


def _sequence(sequence: int) -> int:
    if not 1 <= sequence <= MAX_SEQUENCE:
        raise _invalid("sequence", f"{sequence} is not 1..2^63-1")
    return sequence


def check_name(field_name: str, text: str) -> str:
    """``text``, if a device or a session can be called so; else ``SessionError``."""
    if not _NAME.fullmatch(text):
        raise _invalid(field_name, "is not 1 to 128 of A-Z a-z 0-9 . _ : -")
    return text


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise ``SessionError("invalid_message")`` for labels that a device cannot have."""
    if len(labels) > MAX_LABELS or any(
        not _NAME.fullmatch(name) or len(value) > 256 for name, value in labels.items()
    ):
        raise _invalid("labels", f"are more than {MAX_LABELS}, or too long")


def _instant(timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise _invalid("captured_at", "is no valid time") from None


def _invalid(field_name: str, complaint: str) -> SessionError:
    return SessionError("invalid_message", f"{field_name} {complaint}", field=field_name)
