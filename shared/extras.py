"""Libraries that only an extra brings: imported when they are used, and named when they are not
there."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from shared.errors import FeatherwireError


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
