"""What simulated devices send: .fwf files, those given or those that come with Featherwire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from shared.bitstream import Bitstream
from shared.cli import read_file
from shared.errors import FeatherwireError
from shared.limits import DEFAULT_LIMITS
from shared.proto.featherwire.v1 import types_pb2
from shared.wire.features import features_message

PACKAGED = Path(__file__).with_name("recorded")
"""Photos that packages ship, encoded with the packaged picture bundle ; their README says how."""


def load_streams(files: Sequence[Path] = ()) -> list[types_pb2.Features]:
    """The files as messages, in order; without any those that are packaged.

    Raises ``FeatherwireError``: what ``read_file`` and ``Bitstream.from_bytes`` do, with the file's
    name.
    """
    return list(map(_load, files or sorted(PACKAGED.glob("*.fwf"))))


def check_accepted(
    streams: Iterable[types_pb2.Features], accepted_bundle_ids: Iterable[str]
) -> None:
    """Raise ``FeatherwireError("bundle_mismatch")`` for streams that a server does not take."""
    accepted = {bytes.fromhex(bundle_id[:16]) for bundle_id in accepted_bundle_ids}
    for stream in streams:
        if stream.bundle_short_id not in accepted:
            raise FeatherwireError(
                "bundle_mismatch",
                f"the server does not take streams of bundle {stream.bundle_short_id.hex()}: give "
                "--file streams of one that it has",
            )


def _load(file: Path) -> types_pb2.Features:
    try:
        data = read_file(file, max_bytes=DEFAULT_LIMITS.max_file_bytes)
        return features_message(Bitstream.from_bytes(data))
    except FeatherwireError as error:
        raise FeatherwireError(error.reason, f"{file}: {error.message}") from None
