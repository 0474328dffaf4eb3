"""Hand-over of the server's bundle to devices that have another, or none."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from cloud_server.ingest.status import abort
from cloud_server.reconstruct.reconstructor import WEIGHTS_FILE
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
    """Serves one bundle, as the zip that a device needs: all of it but the decoder's weights."""

    def __init__(self, bundle: Bundle) -> None:
        """Reads and packs the bundle; call it off the event loop."""
        manifest = bundle.manifest
        self._zip = bundle.to_zip(without=frozenset({WEIGHTS_FILE}))
        self._info = bundles_pb2.BundleInfo(
            bundle_id=bundle.id,
            name=manifest.name,
            version=manifest.version,
            codec=manifest.codec,
            zip_bytes=len(self._zip),
            zip_sha256=hashlib.sha256(self._zip).hexdigest(),
            states=[
                bundles_pb2.BundleState(
                    state=row.state, typical_bits_per_pixel=row.typical_bits_per_pixel
                )
                for row in manifest.states
            ],
        )

    async def ListBundles(
        self, request: bundles_pb2.ListBundlesRequest, context: ListContext
    ) -> bundles_pb2.ListBundlesResponse:
        return bundles_pb2.ListBundlesResponse(
            bundles=[self._info], current_bundle_id=self._info.bundle_id
        )

    async def GetBundle(
        self, request: bundles_pb2.GetBundleRequest, context: GetContext
    ) -> AsyncIterator[bundles_pb2.GetBundleResponse]:
        if request.bundle_id not in ("", self._info.bundle_id):
            await abort(
                context,
                BundleError(
                    "not_found",
                    f"this server has no bundle {request.bundle_id[:64]}; it has "
                    f"{self._info.bundle_id}",
                ),
            )
        if request.offset_bytes > len(self._zip):
            await abort(
                context,
                BundleError("bad_offset", f"the zip has {len(self._zip)} bytes"),
            )
        info: bundles_pb2.BundleInfo | None = self._info
        for start in range(request.offset_bytes, len(self._zip) or 1, BUNDLE_CHUNK_BYTES):
            yield bundles_pb2.GetBundleResponse(
                info=info, offset_bytes=start, data=self._zip[start : start + BUNDLE_CHUNK_BYTES]
            )
            info = None
