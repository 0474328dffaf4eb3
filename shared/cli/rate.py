"""What a .fwf file costs and how far it goes, as every command shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.bitstream import Bitstream

RATE_COLUMNS: Mapping[str, str] = {
    "state": "state",
    "passes": "passes",
    "bytes": "bytes",
    "bits_per_pixel": "bits/pixel",
}
"""Keys of :func:`rate_record`, each with the heading of its column."""


def rate_record(bitstream: Bitstream) -> dict[str, Any]:
    """The finest complete state, the passes of the next layer, and the size of the whole file."""
    return {
        "state": bitstream.state,
        "passes": bitstream.passes,
        "bytes": bitstream.file_bytes,
        "bits_per_pixel": round(bitstream.bits_per_pixel, 6),
    }
