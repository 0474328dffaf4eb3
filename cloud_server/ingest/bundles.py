"""The bundles that a server takes, and their hand-over to devices that have others, or none."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import grpc

from cloud_server.engine.local import unknown_bundle
from shared.bundle import Bundle
from shared.errors import BundleError, SessionError
from shared.proto.featherwire.v1 import bundles_pb2, bundles_pb2_grpc
from shared.rpc.status import abort
from shared.wire.requests import Hello
from shared.wire.transport import BUNDLE_CHUNK_BYTES

if TYPE_CHECKING:
    ListContext = grpc.aio.ServicerContext[
        bundles_pb2.ListBundlesRequest, bundles_pb2.ListBundlesResponse
    ]
    GetContext = grpc.aio.ServicerContext[
        bundles_pb2.GetBundleRequest, bundles_pb2.GetBundleResponse
    ]


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
        """Whether the bundle of this short id is served."""
        return short_id in self._by_short_id

    def of(self, short_id: bytes) -> Bundle:
        """The bundle that wrote a bitstream. Raises ``BundleError("bundle_mismatch")``."""
        bundle = self._by_short_id.get(short_id)
        if bundle is None:
            raise unknown_bundle(short_id, self._bundles)
        return bundle

    def agree(self, hello: Hello) -> frozenset[bytes]:
        """Short ids of the bundles in which this client can encode a frame.

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


class BundleServicer(bundles_pb2_grpc.BundleServiceServicer):
    """Serves bundles, each as the zip that a device needs: all but decoder weights and tails."""

    def __init__(self, *bundles: Bundle) -> None:
        """bundles: the one first that devices shall use.

        Reads and packs them; call it off the event loop.
        """
        self._packed = {bundle.id: _pack(bundle) for bundle in bundles}
        self._current_id = bundles[0].id

    async def ListBundles(
        self, request: bundles_pb2.ListBundlesRequest, context: ListContext
    ) -> bundles_pb2.ListBundlesResponse:
        return bundles_pb2.ListBundlesResponse(
            bundles=[info for info, _ in self._packed.values()],
            current_bundle_id=self._current_id,
        )

    async def GetBundle(
        self, request: bundles_pb2.GetBundleRequest, context: GetContext
    ) -> AsyncIterator[bundles_pb2.GetBundleResponse]:
        packed = self._packed.get(request.bundle_id or self._current_id)
        if packed is None:
            await abort(
                context,
                BundleError(
                    "not_found",
                    f"this server has no bundle {request.bundle_id[:64]}; it has "
                    f"{', '.join(self._packed)}",
                ),
            )
        described, data = packed
        if request.offset_bytes > len(data):
            await abort(context, BundleError("bad_offset", f"the zip has {len(data)} bytes"))
        info: bundles_pb2.BundleInfo | None = described
        for start in range(request.offset_bytes, len(data) or 1, BUNDLE_CHUNK_BYTES):
            yield bundles_pb2.GetBundleResponse(
                info=info, offset_bytes=start, data=data[start : start + BUNDLE_CHUNK_BYTES]
            )
            info = None


def _pack(bundle: Bundle) -> tuple[bundles_pb2.BundleInfo, bytes]:
    manifest = bundle.manifest
    data = bundle.to_zip("edge")
    info = bundles_pb2.BundleInfo(
        bundle_id=bundle.id,
        name=manifest.name,
        version=manifest.version,
        codec=manifest.codec,
        zip_bytes=len(data),
        zip_sha256=hashlib.sha256(data).hexdigest(),
        states=[
            bundles_pb2.BundleState(
                state=row.state, typical_bits_per_pixel=row.typical_bits_per_pixel
            )
            for row in manifest.states
        ],
        default_state=bundle.advice.default_state,
        pictures=[one.name for one in manifest.pictures],
    )
    return info, data
