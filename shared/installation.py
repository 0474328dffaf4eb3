"""What is installed: the release, and libraries that only an extra brings."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from shared.errors import FeatherwireError

NO_RELEASE = "0"


def package_version() -> str:
    """The release that is installed; ``NO_RELEASE`` when it runs from a source tree."""
    try:
        return version("featherwire")
    except PackageNotFoundError:
        return NO_RELEASE


def require(module: str, extra: str, what: str, error: type[FeatherwireError]) -> ModuleType:
    """The module. Raises ``error`` with the reason ``missing_extra``.

    what: for which it is needed, such as ``"RTSP"``.
    """
    try:
        return import_module(module)
    except ImportError as missing:
        raise error(
            "missing_extra",
            f"{what} needs the extra {extra}; get it with: pip install 'featherwire[{extra}]' "
            f"({missing})",
            extra=extra,
        ) from None
