"""Backward diffusion and synthesis: from latents at a state to pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloud_server.reconstruct.reconstructor import Reconstructor

__all__ = ["Reconstructor"]


def __getattr__(name: str) -> Any:
    """Import lazily: the fit step takes networks.py alone to machines that have only torch."""
    if name == "Reconstructor":
        from cloud_server.reconstruct.reconstructor import Reconstructor

        return Reconstructor
    raise AttributeError(name)
