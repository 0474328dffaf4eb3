"""The bundles that a server takes, the wanted one first."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_server.engine.local import unknown_bundle
from shared.bundle import Bundle
from shared.errors import SessionError
from shared.wire.requests import Hello


class ServedBundles:
    """One or more bundles, by id and by the short id that bitstreams carry."""

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        """bundles: the one first that a client without one shall use."""
        self.ids = tuple(bundle.id for bundle in bundles)
        self._bundles = tuple(bundles)
        self._by_short_id = {bundle.short_id: bundle for bundle in bundles}

    @property
    def wanted(self) -> Bundle:
        """The bundle for clients that have none of these."""
        return self._bundles[0]

    @property
    def all(self) -> tuple[Bundle, ...]:
        """Every bundle, the wanted one first."""
        return self._bundles

    def serves(self, short_id: bytes) -> bool:
        """Whether that bundle is here."""
        return short_id in self._by_short_id

    def of(self, short_id: bytes) -> Bundle:
        """The bundle that wrote a bitstream. Raises ``BundleError("bundle_mismatch")``."""
        bundle = self._by_short_id.get(short_id)
        if bundle is None:
            raise unknown_bundle(short_id, self._bundles)
        return bundle

    def agree(self, hello: Hello) -> frozenset[bytes]:
        """Short ids of the bundles in which this client can describe a frame.

        Raises ``SessionError("bundle_mismatch")`` for a client that insists on another bundle.
        """
        mine = hello.bundle_id
        if mine not in self.ids:
            if mine is not None and not hello.can_switch_bundle:
                raise SessionError(
                    "bundle_mismatch",
                    f"this server takes bundle {' or '.join(self.ids)}, not {mine}; fetch it with "
                    "BundleService.GetBundle, or start the client without a bundle of its own",
                    bundle_id=self.wanted.id,
                )
            mine = self.wanted.id
        named = {mine, *hello.also_bundle_ids}
        return frozenset(bundle.short_id for bundle in self._bundles if bundle.id in named)
