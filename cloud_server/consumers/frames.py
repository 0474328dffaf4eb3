"""Stored frames for consumers: cut from what was received, never encoded again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shared.bitstream import Bitstream
from shared.errors import BitstreamError, BudgetError, BundleError


def choose(
    bitstreams: Sequence[Bitstream],
    bundle_id: bytes,
    *,
    makes_pictures: Callable[[bytes], bool] | None,
) -> Bitstream:
    """The bitstream of that bundle (short id); of none, the first that is good for a picture when
    ``makes_pictures`` asks for one, else the first.

    Raises ``BundleError("not_found")``.
    """
    if not bundle_id:
        if makes_pictures is None:
            return bitstreams[0]
        good = [one for one in bitstreams if makes_pictures(one.bundle_id)]
        return good[0] if good else bitstreams[0]
    for one in bitstreams:
        if one.bundle_id == bundle_id:
            return one
    carried = ", ".join(one.bundle_id.hex() for one in bitstreams)
    raise BundleError(
        "not_found", f"the frame carries nothing of bundle {bundle_id.hex()}; it has: {carried}"
    )


def cut(bitstream: Bitstream, state: int | None, max_bytes: int | None) -> Bitstream:
    """``bitstream`` no finer than ``state``, and in ``max_bytes`` as a file; whole layers go.

    Raises ``BitstreamError("bad_state")`` for a state that is coarser than its coarsest layer, and
    ``BudgetError("budget_too_small")`` for fewer bytes than that layer takes.
    """
    if state is not None and state > bitstream.state:
        coarsest = bitstream.layers[0].state
        if state > coarsest:
            raise BitstreamError(
                "bad_state",
                f"the frame was sent from state {coarsest} on, not {state}",
                state=state,
            )
        bitstream = bitstream.truncate(state)
    elif state is not None and state == bitstream.state:
        bitstream = bitstream.truncate(state)  # without the part of a finer layer
    if max_bytes is None or bitstream.file_bytes <= max_bytes:
        return bitstream
    sizes = bitstream.cumulative_bytes()
    fitting = [one for one, size_bytes in sizes.items() if size_bytes <= max_bytes]
    if not fitting:
        coarsest, least = next(iter(sizes.items()))
        raise BudgetError(
            "budget_too_small",
            f"the frame takes {least} bytes at its coarsest state {coarsest}, not {max_bytes}",
            least_bytes=least,
        )
    return bitstream.truncate(min(fitting))
