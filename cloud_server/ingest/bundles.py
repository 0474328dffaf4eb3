"""Hand-over of the server's bundles to devices that have others, or none."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from cloud_server.status import abort
from shared.bundle import Bundle
from shared.errors import BundleError
from shared.proto.featherwire.v1 import bundles_pb2, bundles_pb2_grpc
from shared.wire.transport import BUNDLE_CHUNK_BYTES

if TYPE_CHECKING:
    ListContext = grpc.aio.ServicerContext[
        bundles_pb2.ListBundlesRequest, bundles_pb2.ListBundlesResponse
    ]
    GetContext = grpc.aio.ServicerContext[
        bundles_pb2.GetBundleRequest, bundles_pb2.GetBundleResponse
    ]


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
    )
    return info, data
