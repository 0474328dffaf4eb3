"""Fetches the bundle that a server wants, and keeps it for the next time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import grpc

from edge_client.session.channel import error_from_call
from shared.bundle import Bundle
from shared.errors import BundleError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import bundles_pb2, bundles_pb2_grpc

CACHE_VARIABLE = "FEATHERWIRE_BUNDLE_CACHE"


def default_cache_dir() -> Path:
    """Where fetched bundles are kept: FEATHERWIRE_BUNDLE_CACHE, or the user's cache folder."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE])
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "featherwire" / "bundles"


def obtain_bundle(
    channel: grpc.Channel,
    server: str,
    bundle_id: str,
    *,
    cache_dir: Path | None = None,
    timeout_s: float = 300.0,
    limits: Limits = DEFAULT_LIMITS,
) -> Bundle:
    """The bundle from the cache, or from the server, which then fills the cache.

    A damaged cache entry is fetched again. Raises ``BundleError`` when what the server hands over
    is not what it announced, and the server's own error when it has no such bundle.
    """
    path = (cache_dir or default_cache_dir()) / f"{bundle_id}.zip"
    with suppress(BundleError, OSError):
        cached = Bundle.load(path, limits=limits)
        if cached.id == bundle_id:
            return cached
    data = _fetch(channel, server, bundle_id, timeout_s, limits)
    bundle = Bundle.from_zip_bytes(data, limits=limits, origin=f"server {server}")
    if bundle.id != bundle_id:
        raise BundleError(
            "forged_bundle", f"the server named bundle {bundle_id} but handed over {bundle.id}"
        )
    with suppress(OSError):  # a full or read-only disk costs the cache, not the session
        _store(path, data)
    return bundle


def _fetch(
    channel: grpc.Channel, server: str, bundle_id: str, timeout_s: float, limits: Limits
) -> bytes:
    stub = bundles_pb2_grpc.BundleServiceStub(channel)
    request = bundles_pb2.GetBundleRequest(bundle_id=bundle_id)
    info: bundles_pb2.BundleInfo | None = None
    data = bytearray()
    call = stub.GetBundle(request, timeout=timeout_s)
    try:
        for chunk in call:
            if info is None:
                info = chunk.info
                if not 0 < info.zip_bytes <= limits.max_bundle_bytes:
                    raise BundleError("limit_exceeded", f"the zip has {info.zip_bytes} bytes")
            if chunk.offset_bytes != len(data) or len(data) + len(chunk.data) > info.zip_bytes:
                raise BundleError("bad_transfer", "the server's chunks do not fit together")
            data += chunk.data
    except grpc.RpcError as error:
        raise error_from_call(error, server) from None
    finally:
        call.cancel()
    if info is None or hashlib.sha256(data).hexdigest() != info.zip_sha256:
        raise BundleError("bad_transfer", "the bundle arrived damaged")
    return bytes(data)


def _store(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".bundle-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
