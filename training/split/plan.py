"""A recipe to begin with for a network whose cut was found, and not chosen by hand."""

from __future__ import annotations

from itertools import pairwise

from training.split.network import SplitInfo
from training.split.recipe import CutPart, SplitRecipe

_BITS_PER_PIXEL = (0.30, 0.20, 0.13, 0.08)
"""Of the network's input, before training, finest point first."""
_MOST_LATENT = 48
_GROUPS = 6


def plan_recipe(info: SplitInfo, cut: CutPart, network: str, name: str) -> SplitRecipe:
    """Four operating points of one chain each.

    network: as the recipe names it. name: the bundle's. Every scale has as many channels; groups
    take few of the first ones, which have most bits, and many of the last.
    """
    latent = min(_MOST_LATENT, *(scale.channels for scale in info.scales))
    grids = [info.width * info.height // scale.stride**2 for scale in info.scales]
    least = min(grids)
    points = [share * info.width * info.height / least for share in _BITS_PER_PIXEL]
    sizes = _widths(latent, _GROUPS)
    return SplitRecipe.model_validate(
        {
            "name": name,
            "description": f"Features for {info.task}, without a picture; {info.name} cut in two.",
            "network": network,
            "cut": cut.model_dump(),
            "bits_per_position": [round(bits, 3) for bits in points],
            "model": {"latent": latent},
            "groups": {scale.name: sizes for scale in info.scales},
            "chains": [{"point": point} for point in range(len(points))],
        }
    )


def _widths(channels: int, planes: int) -> tuple[int, ...]:
    """``planes`` widths, each larger by the same factor, at least 1, that sum to ``channels``."""
    planes = min(planes, channels)
    ends = [
        min(channels - planes + row, max(row, round(channels * (4 ** (row / planes) - 1) / 3)))
        for row in range(planes + 1)
    ]
    ends[-1] = channels
    return tuple(stop - start for start, stop in pairwise(ends))
