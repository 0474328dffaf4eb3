"""Which release this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The release that is installed; 0 when it runs from a source tree."""
    try:
        return version("featherwire")
    except PackageNotFoundError:
        return "0"
