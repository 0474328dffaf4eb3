"""The edge client: photos in, features out, over a session that survives a bad network.

EdgeEncoder   photo -> Bitstream at a rate
EdgeSession   photos -> results of a server
KeyEvery      how often a frame of a session stands alone
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_client.encoder import EdgeEncoder
    from edge_client.session import EdgeSession, FrameResult, KeyEvery

__all__ = ["EdgeEncoder", "EdgeSession", "FrameResult", "KeyEvery"]


def __getattr__(name: str) -> Any:
    """Import on first use: onnxruntime and grpc are slow to load, and --help needs neither."""
    if name == "EdgeEncoder":
        from edge_client.encoder import EdgeEncoder

        return EdgeEncoder
    if name in __all__:
        from edge_client import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
