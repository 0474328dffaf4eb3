"""Codecs by name; a bundle's manifest names the one it wants."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

from codec.chains import ChainsCodec
from shared.bundle import Bundle
from shared.errors import BundleError

_FACTORIES: dict[str, Callable[[Bundle], ChainsCodec[Any]]] = {}
Factory = TypeVar("Factory", bound=Callable[[Bundle], ChainsCodec[Any]])


def register_codec(name: str) -> Callable[[Factory], Factory]:
    """Decorator for a codec class (or factory) that is made from a bundle."""

    def add(factory: Factory) -> Factory:
        if name in _FACTORIES:
            raise ValueError(f"codec {name!r} is registered already")
        _FACTORIES[name] = factory
        return factory

    return add


def _import(name: str) -> None:
    """A codec ``some-name`` is the folder ``codec/some_name``."""
    module = f"codec.{name.replace('-', '_')}"
    if importlib.util.find_spec(module) is not None:
        importlib.import_module(f"{module}.codec")


def open_codec(bundle: Bundle) -> ChainsCodec[Any]:
    """The codec that the bundle names. Raises BundleError ``unknown_codec``."""
    _import(bundle.manifest.codec)
    try:
        factory = _FACTORIES[bundle.manifest.codec]
    except KeyError:
        known = ", ".join(sorted(_FACTORIES))
        raise BundleError(
            "unknown_codec", f"codec {bundle.manifest.codec!r} is unknown here; known: {known}"
        ) from None
    return factory(bundle)
