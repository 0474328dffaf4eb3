"""The bundles that come with Featherwire, by name and by the id that files carry."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import BundleError

if TYPE_CHECKING:
    from shared.bundle.bundle import Bundle

PACKAGED_FOLDER = Path(__file__).resolve().parent.parent / "bundles"
DEFAULT_NAME = "picture"


def packaged_names() -> tuple[str, ...]:
    """Names of the bundles that come with Featherwire."""
    return tuple(sorted(path.parent.name for path in PACKAGED_FOLDER.glob("*/manifest.json")))


def packaged_bundle_of(short_id: bytes) -> Bundle | None:
    """The packaged bundle with which a bitstream was made, by its first eight bytes of id."""
    name = _short_ids().get(short_id)
    if name is None:
        return None
    from shared.bundle.bundle import Bundle

    return Bundle.load(PACKAGED_FOLDER / name)


def bundle_for(short_id: bytes, given: Bundle | None = None) -> Bundle:
    """What to open a bitstream with: the given bundle, the packaged one that wrote it, or the
    default one, whose codec says that the bitstream is not its own. Raises BundleError."""
    from shared.bundle.bundle import Bundle

    return given or packaged_bundle_of(short_id) or Bundle.load()


@cache
def _short_ids() -> dict[bytes, str]:
    from shared.bundle.bundle import Bundle

    found = {}
    for name in packaged_names():
        try:
            found[Bundle.load(PACKAGED_FOLDER / name).short_id] = name
        except BundleError:  # its own command says what is wrong with it
            continue
    return found
