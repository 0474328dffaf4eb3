"""The recipe of a cut network: one YAML file that the steps follow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from codec.kit.recipe import BundleRecipe, Part
from codec.kit.sequences import SequencesPart
from codec.lattice_palette.train.bottleneck import ModelSettings
from codec.lattice_palette.train.contexts import LatticeSettings
from codec.lattice_palette.train.fit import StageSettings
from codec.lattice_palette.train.lattices import ChainShape
from codec.lattice_palette.train.nested.contexts import NestedContextsPart
from codec.lattice_palette.train.nested.lattices import NestedPart
from codec.lattice_palette.train.networks.base import SplitInfo
from codec.lattice_palette.train.views import ViewSettings


class ChainPart(Part):
    """A chain: the operating point that its synthesis starts from, its step in the model's units
    (None: the point's), and its states: groups left out, finest first."""

    point: int = Field(ge=0)
    step: float | None = Field(None, gt=0)
    left_out: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)


class ContextsPart(LatticeSettings):
    """How context networks are fitted, and on how many views."""

    views: int = Field(3000, ge=2)


class CutPart(Part):
    """Where a network of layers is cut (YOLO's): behind layer ``at``, or at the cheapest place
    that leaves the edge at most ``edge_share`` of the multiply-adds; its input is side x side."""

    at: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    side: int = Field(640, ge=32, le=2048)
    edge_share: float = Field(1 / 3, gt=0, le=1)


class SplitRecipe(BundleRecipe):
    """The whole recipe."""

    codec: Literal["lattice-palette"]
    network: str
    cut: CutPart | None = None
    views: ViewSettings = ViewSettings()
    model: ModelSettings = ModelSettings()
    bits_per_position: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    bit_weight: float = Field(0.16, gt=0)
    start_samples: int = Field(240, ge=8)
    fit: StageSettings = StageSettings()
    groups: dict[str, tuple[Annotated[int, Field(ge=1)], ...]] = Field(min_length=1)
    order: Literal["checkerboard", "quincunx", "two-level"] = "two-level"
    chains: tuple[ChainPart, ...] = ()
    nested: NestedPart | None = None
    tail: StageSettings = StageSettings()
    tail_share: float = Field(1.0, ge=0, le=1)
    contexts: ContextsPart = ContextsPart()
    sequences: SequencesPart = SequencesPart()
    nested_contexts: NestedContextsPart = NestedContextsPart()

    @model_validator(mode="after")
    def _consistent(self) -> SplitRecipe:
        for scale, sizes in self.groups.items():
            if sum(sizes) != self.model.latent:
                raise ValueError(f"the groups of {scale} are not {self.model.latent} channels")
        groups = sum(map(len, self.groups.values()))
        if bool(self.chains) == (self.nested is not None):
            raise ValueError("a recipe has either chains of one step each, or nested lattices")
        if self.nested is not None:
            self.nested.check(self.groups)
        for chain in self.chains:
            if chain.point >= len(self.bits_per_position):
                raise ValueError(f"there is no point {chain.point}")
            if chain.left_out[0] or not all(a < b < groups for a, b in pairwise(chain.left_out)):
                raise ValueError(f"the states of a chain cannot leave out {chain.left_out}")
        return self

    def points_of_states(self) -> list[int]:
        """The operating point of every state, finest first."""
        if self.nested is not None:
            return [0] * len(self.nested.states)
        return [chain.point for chain in self.chains for _ in chain.left_out]

    def shapes(self, steps: Sequence[float]) -> list[ChainShape]:
        """The chains' plain settings; steps: of the model's points."""
        return [
            ChainShape(
                self.groups,
                steps[chain.point] if chain.step is None else chain.step,
                self.order,
                chain.left_out,
            )
            for chain in self.chains
        ]


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
            "codec": "lattice-palette",
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
