"""Where torch runs."""

from __future__ import annotations

from shared.errors import TaskError


def check_device(device: str) -> None:
    """Raise ``TaskError("bad_device")`` where torch cannot use ``device``."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TaskError("bad_device", f"device {device!r} cannot be used: {reason}") from None
