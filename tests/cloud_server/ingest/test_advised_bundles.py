"""What a server tells of the bundles that it takes."""

from __future__ import annotations

from pathlib import Path

from cloud_server.ingest.bundles import BundleServicer
from shared.bundle import ADVICE_NAME, Advice, Bundle
from shared.proto.featherwire.v1 import bundles_pb2
from tests.support.tiny_bundle import make_tiny_bundle


async def test_a_server_says_what_devices_send_by_default(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)

    async def default() -> int | None:
        servicer = BundleServicer(Bundle.load(tmp_path))
        request = bundles_pb2.ListBundlesRequest()
        (info,) = (await servicer.ListBundles(request, None)).bundles  # type: ignore[arg-type]
        return info.default_state if info.HasField("default_state") else None

    assert await default() is None
    (tmp_path / ADVICE_NAME).write_bytes(Advice(default_state=2).to_bytes())
    assert await default() == 2
