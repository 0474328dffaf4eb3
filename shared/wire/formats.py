"""What two ends agree on when a stream opens: the format of bitstreams, and names for bundles.

The device says in ``Hello`` which versions of the format it can write, the server in ``Welcome``
which it reads; the highest that both know is used. An end that says nothing knows version 3 alone.
In ``Welcome`` the server also lists the bundles that it takes: a place in that list is a bundle's
name on this stream, so that no frame repeats an id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.bitstream import FORMAT_VERSION, FORMAT_VERSIONS
from shared.bitstream.container import BUNDLE_ID_BYTES
from shared.errors import BitstreamError, SessionError
from shared.proto.featherwire.v1 import types_pb2

SILENT = (3,)
"""The versions of an end that does not name any."""

WRITTEN = tuple(version for version in FORMAT_VERSIONS if version <= FORMAT_VERSION)
"""Versions that this release writes; it reads all of ``FORMAT_VERSIONS``."""


def agreed_version(read: Iterable[int], written: Iterable[int], server: str) -> int:
    """The version that a device writes, of those that the server reads and the device can write.

    Empty is version 3 alone. server: its name, for the error. Raises
    ``SessionError("format_unsupported")`` where there is none.
    """
    theirs, ours = set(read) or set(SILENT), set(written) or set(SILENT)
    if not theirs & ours:
        raise SessionError(
            "format_unsupported",
            f"{server} reads bitstreams of format version {_listed(theirs)}, this client writes "
            f"{_listed(ours)}; use a client and a server of releases that are less far apart",
            format_versions=sorted(theirs),
        )
    return max(theirs & ours)


def check_client(written: Iterable[int]) -> None:
    """Raise ``SessionError("format_unsupported")`` for a client of which nothing can be read."""
    theirs = set(written) or set(SILENT)
    if not theirs & set(FORMAT_VERSIONS):
        raise SessionError(
            "format_unsupported",
            f"the client writes bitstreams of format version {_listed(theirs)}, this server reads "
            f"{_listed(FORMAT_VERSIONS)}; use a server of the client's release",
            format_versions=list(FORMAT_VERSIONS),
        )


def short_ids(bundle_ids: Iterable[str]) -> tuple[bytes, ...]:
    """The first eight bytes of each id (64 hexadecimal digits), in their order.

    Raises ``SessionError("invalid_message")`` for what is no id.
    """
    try:
        return tuple(bytes.fromhex(bundle_id[: 2 * BUNDLE_ID_BYTES]) for bundle_id in bundle_ids)
    except ValueError:
        raise SessionError(
            "invalid_message", "accepted_bundle_ids are no ids", field="accepted_bundle_ids"
        ) from None


def complete_id(features: types_pb2.Features, accepted: Sequence[bytes]) -> None:
    """Fill in the eight bytes of an id of which a file had only the first, in place.

    accepted: short ids of the bundles that the server takes. One of none of them stays as it is.
    """
    begins = features.bundle_short_id
    if 0 < len(begins) < BUNDLE_ID_BYTES:
        found = [short_id for short_id in accepted if short_id.startswith(begins)]
        if len(found) == 1:
            features.bundle_short_id = found[0]


def to_index(features: types_pb2.Features, accepted: Sequence[bytes]) -> None:
    """Name the bundle by its place among ``accepted`` short ids where there is one, in place.

    Features of format 3 are read by servers that know no places, and stay as they are.
    """
    if features.container and features.bundle_short_id in accepted:
        features.bundle_index = accepted.index(features.bundle_short_id)
        features.ClearField("bundle_short_id")


def from_index(features: types_pb2.Features, accepted: Sequence[bytes]) -> None:
    """The inverse of :func:`to_index`, in place. Raises ``BitstreamError("bad_bundle_id")``."""
    complete_id(features, accepted)
    if features.bundle_short_id or not features.container:
        return
    if features.bundle_index >= len(accepted):
        raise BitstreamError(
            "bad_bundle_id",
            f"bundle {features.bundle_index} of the {len(accepted)} that Welcome has named",
        )
    features.bundle_short_id = accepted[features.bundle_index]
    features.ClearField("bundle_index")


def _listed(versions: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(versions)))
