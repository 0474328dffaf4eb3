"""The Markov palette's coder: leaves of trees of colours, split by split, in chains of states.

A PSNR can be aimed at. The edge has no decoder, but it knows the latents' distortion at every point
of the stream exactly, and the photo. A bundle may carry a model that training fitted to photos and
their reconstructions, one row a state:

    log10 MSE = intercept + sum over scales s of a_s log10 D_s + sum over blocks k of b_k log10 V_k

with D_s the mean squared error of scale s at that state, V_k what averaging over blocks of pixels
loses (:func:`shared.preprocess.block_detail`), and MSE the picture's, for pixels in 0..1, so that
PSNR = -10 log10 MSE. A row's margin is taken off it: the quantile of the residuals on photos that
the row was not fitted to, so that the stated share of photos is at least as good as expected (split
conformal prediction, Vovk et al. 2005). The regression is our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from codec.entropy import BitReader, BitWriter, bit_decoder, bit_encoder
from codec.layered import ChainCodec, ChainsCodec, FeatureLatents, Features, shapes_of
from codec.markov_palette.assignment import (
    Assignment,
    Bits,
    KnownLeaves,
    RateAwareAssignment,
    RegionAssignment,
    States,
    grid_of_states,
)
from codec.markov_palette.contexts import ContextModel, PictureContexts
from codec.markov_palette.palette import Depths, Indices, MarkovPalette, Pass
from codec.settings import CONTEXTS_FILE, LEAST, PALETTE_FILE, FeatureSettings, PsnrModel
from shared.bitstream import FORMAT_VERSION, Bitstream
from shared.bundle import Bundle
from shared.errors import BudgetError
from shared.targets import FINEST, RateTarget, Regions

_WORST_BITS_PER_SPLIT = 16

BitSource = Callable[[int, PictureContexts, Pass, npt.NDArray[np.uint16]], Bits]
"""Says the bits of a state's pass, given the odds of each: uint8 [n]."""


class PaletteChain(ChainCodec[Pass, PictureContexts]):
    """Encodes features to the layers of one chain of palette trees and decodes them to colours."""

    def __init__(
        self,
        bundle: Bundle,
        settings: FeatureSettings,
        palette: MarkovPalette,
        contexts: ContextModel,
    ) -> None:
        """palette, contexts: of this chain; bundle: which it is of."""
        super().__init__(bundle, settings, palette)
        self.palette = palette
        self._contexts = contexts
        self._scales = {plane.name: plane.scale for plane in palette.planes}

    # -- to bits ---------------------------------------------------------------------------------

    def encode(
        self,
        features: Features,
        width: int,
        height: int,
        target: RateTarget = FINEST,
        *,
        rate_weight: float | None = None,
        detail: Sequence[float] | None = None,
        regions: Regions = (),
        version: int = FORMAT_VERSION,
        grey: bool = False,
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.encode`."""
        if regions:
            nearest = rate_weight is not None
            return self._encode_regions(
                features, width, height, target, regions, nearest, version, grey
            )
        self._check_features(features)
        self._check_extent(shapes_of(features), width, height)
        state, passes = self._state(target), 0
        assignment: Assignment
        if rate_weight and target.psnr_db is None:
            # The decisions need the odds that coding needs: both in one walk.
            assignment = RateAwareAssignment(self.palette, features, rate_weight)
        else:
            indices = self.quantise(features, rate_weight)
            assignment = KnownLeaves(self.palette, indices)
            if target.psnr_db is not None:
                state, passes = self._reaching(features, indices, target, detail)
        budget = target.budget_bytes(width, height)
        source = self._source(assignment)
        return self._compose(width, height, source, state, passes, budget, version, grey=grey)

    def _encode_regions(
        self,
        features: Features,
        width: int,
        height: int,
        target: RateTarget,
        regions: Regions,
        nearest: bool,
        version: int,
        grey: bool,
    ) -> Bitstream:
        """Regions to their own states, the rest to the target's, or to what a budget leaves."""
        self._check_features(features)
        self._check_extent(shapes_of(features), width, height)
        finest = max(self.states[0], min(region.state for region in regions))
        budget = target.budget_bytes(width, height)

        def coded(rest: int, max_bytes: int | None = None) -> Bitstream:
            states = self._states_of(regions, rest, width, height)
            assignment = RegionAssignment(self.palette, features, states, nearest=nearest)
            source = self._source(assignment)
            state = min(rest, finest)
            return self._compose(width, height, source, state, 0, max_bytes, version, grey=grey)

        if budget is None:
            return coded(self._state(target))
        best: Bitstream | None = None
        low, high = finest, self.states[-1]
        while low <= high:  # the finest rest with which the regions have all that they want
            rest = (low + high) // 2
            found = coded(rest)
            if found.file_bytes <= budget:
                best, high = found, rest - 1
            else:
                low = rest + 1
        return best if best is not None else coded(self.states[-1], budget)

    def _states_of(self, regions: Regions, rest: int, width: int, height: int) -> dict[str, States]:
        """Of all scales alike: a region is made of whole positions of the coarsest."""
        grids, stride = self._grids(width, height), max(self._strides.values())
        name = max(self._strides, key=self._strides.__getitem__)
        states = grid_of_states(regions, rest, width, height, *grids[name], stride)
        return {
            scale: states.repeat(stride // here, 0).repeat(stride // here, 1)
            for scale, here in self._strides.items()
        }

    def quantise(self, features: Features, rate_weight: float | None = None) -> Indices:
        """Indices at the finest state: int32 [h, w] a plane. Raises ValueError on wrong features.

        Those that the palette was made for (:meth:`PaletteTree.leaf`); or the nearest leaves with
        a ``rate_weight`` of 0; or with a greater one those of
        :class:`~codec.markov_palette.assignment.RateAwareAssignment`.
        """
        self._check_features(features)
        if not rate_weight:
            return self.palette.encode(features, nearest=rate_weight is not None)
        contexts = self._contexts.open(self._by_plane(shapes_of(features)))
        assignment = RateAwareAssignment(self.palette, features, rate_weight)
        for state in range(self.palette.coarsest_state, self.palette.finest_state - 1, -1):
            for step in self.palette.passes(state):
                positions = contexts.positions(step.plane, step.side)
                odds = contexts.probabilities(*step)
                contexts.advance(*step, assignment.bits(state, step, positions, odds))
        return {plane.name: contexts.indices(plane.name) for plane in self.palette.planes}

    def code(
        self,
        indices: Indices,
        width: int,
        height: int,
        *,
        state: int | None = None,
        passes: int = 0,
        max_bytes: int | None = None,
        version: int = FORMAT_VERSION,
    ) -> Bitstream:
        """The bitstream of indices (of the finest state): to ``state``, ``passes`` of the next.

        max_bytes: of the whole file; less is coded where that is not enough. Raises as
        :meth:`encode` does, and ValueError when there are no such passes.
        """
        shapes = {self._scales[name]: grid.shape for name, grid in indices.items()}
        self._check_extent(shapes, width, height)
        state = self.palette.finest_state if state is None else state
        self._check_passes(state, passes)
        source = self._source(KnownLeaves(self.palette, indices))
        return self._compose(width, height, source, state, passes, max_bytes, version, grey=False)

    # -- from bits -------------------------------------------------------------------------------

    def decode(self, bitstream: Bitstream) -> FeatureLatents:
        """See :meth:`codec.base.EdgeCodec.decode`."""
        contexts = self._read(bitstream)
        names = [plane.name for plane in self.palette.planes]
        indices = {name: contexts.indices(name) for name in names}
        depths: Depths = {name: contexts.depths(name) for name in names}
        return FeatureLatents(
            self.palette.decode_mixed(indices, depths),
            bitstream.state,
            bitstream.width,
            bitstream.height,
            indices,
            depths,
            self._progress(bitstream, contexts),
            bitstream.grey,
        )

    # -- parts -----------------------------------------------------------------------------------

    def _open(self, width: int, height: int) -> PictureContexts:
        return self._contexts.open(self._by_plane(self._grids(width, height)))

    def _models(self, contexts: PictureContexts, step: Pass) -> npt.NDArray[np.uint16]:
        return contexts.probabilities(*step)

    def _advance(self, contexts: PictureContexts, step: Pass, symbols: Bits) -> None:
        contexts.advance(*step, symbols)

    def _encoder(self, version: int) -> BitWriter:
        return bit_encoder(version)

    def _decoder(self, version: int, payload: bytes) -> BitReader:
        return bit_decoder(version, payload)

    def _most_bits(self, step: Pass, width: int, height: int) -> int:
        rows, columns = self._grids(width, height)[self._scales[step.plane]]
        # A pass takes every other position, rounded up.
        return _WORST_BITS_PER_SPLIT * ((rows * columns + 1) // 2)

    def _source(self, assignment: Assignment) -> BitSource:
        """What is coded: the bits that an assignment decides."""

        def bits_of(
            state: int, contexts: PictureContexts, step: Pass, odds: npt.NDArray[np.uint16]
        ) -> Bits:
            return assignment.bits(state, step, contexts.positions(step.plane, step.side), odds)

        return bits_of

    def _by_plane(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {plane: shapes[scale] for plane, scale in self._scales.items()}

    def _reaching(
        self,
        features: Features,
        indices: Indices,
        target: RateTarget,
        detail: Sequence[float] | None,
    ) -> tuple[int, int]:
        """The coarsest state, and passes after it, from which ``target.psnr_db`` is expected."""
        model, wanted = self._settings.psnr_model, target.psnr_db
        assert model is not None
        assert wanted is not None
        if detail is None:
            raise ValueError("a PSNR target needs the photo's detail")
        expected = -math.inf
        table = DistortionTable(self.palette, features, indices)
        for state, passes, expected in expected_path(model, table, detail):
            if expected >= wanted:
                return state, passes
        if target.best_effort:
            return self.palette.finest_state, 0
        raise BudgetError(
            "target_unreachable",
            f"{wanted:g} dB are wanted, but only {expected:.2f} are expected of the finest state",
            wanted_db=wanted,
            expected_db=round(expected, 2),
        )

    def _symbols(self, contexts: PictureContexts, step: Pass) -> int:
        return len(contexts.positions(step.plane, step.side))

    def _state(self, target: RateTarget) -> int:
        return self.palette.finest_state if target.state is None else target.state


class MarkovPaletteCodec(ChainsCodec[PaletteChain]):
    """A bundle's chains of palette trees."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError when palettes or contexts are damaged or do not fit the manifest."""
        arrays, contexts = bundle.read_arrays(PALETTE_FILE), bundle.read_arrays(CONTEXTS_FILE)
        settings = FeatureSettings.of(bundle)
        chains = []
        for planes, states in settings.chain_parts:
            palette = MarkovPalette.from_arrays(planes, states, arrays)
            model = ContextModel.from_arrays(planes, palette, contexts)
            chains.append(PaletteChain(bundle, settings, palette, model))
        super().__init__(bundle, settings, chains)

    def check_regions(self) -> None:
        """See :meth:`codec.base.EdgeCodec.check_regions`."""
        if self.settings.resize is not None:
            super().check_regions()


class DistortionTable:
    """One picture's squared errors, from which those of any point of its stream are summed up."""

    def __init__(self, palette: MarkovPalette, features: Features, indices: Indices) -> None:
        """features: float32 [C, h, w] per scale. indices: of state 0, int32 [h, w] a plane."""
        self._palette = palette
        self._elements = {scale: grid.size for scale, grid in features.items()}
        quantised = {scale: palette.residual(features, scale, indices) for scale in features}
        self._errors: dict[str, npt.NDArray[np.float64]] = {}
        for plane in palette.planes:
            leaves = indices[plane.name]
            side = (np.indices(leaves.shape).sum(0) & 1).reshape(-1)
            vectors = palette.vectors(quantised, plane)
            tree = palette.trees[plane.name]
            self._errors[plane.name] = np.array(
                [
                    np.bincount(
                        side,
                        np.square(
                            vectors - tree.colours(depth)[leaves.reshape(-1) >> tree.depth - depth]
                        ).sum(1),
                        minlength=2,
                    )
                    for depth in range(tree.depth + 1)
                ]
            )

    def at(self, state: int, passes: int = 0) -> dict[str, float]:
        """Mean squared error per element of every scale, at ``state`` and after ``passes`` more.

        passes: of the next finer layer; fewer than it has.
        """
        depths = {name: [depth, depth] for name, depth in self._palette.depths(state).items()}
        for step in self._palette.passes(state - 1)[:passes] if passes else ():
            depths[step.plane][step.side] = step.depth + 1
        totals = dict.fromkeys(self._elements, 0.0)
        for plane in self._palette.planes:
            for side, depth in enumerate(depths[plane.name]):
                totals[plane.scale] += float(self._errors[plane.name][depth, side])
        return {scale: total / self._elements[scale] for scale, total in totals.items()}

    def passes(self, state: int) -> int:
        """How many passes the layer of ``state`` has."""
        return len(self._palette.passes(state))


def expected_path(
    model: PsnrModel, table: DistortionTable, detail: Sequence[float]
) -> Iterator[tuple[int, int, float]]:
    """(state, passes, dB to be expected) along the stream, never falling.

    From the coarsest state to the finest, and between two of them after each pass of a layer.
    There the picture's error falls in proportion to that of the latents.
    """
    coarser: float | None = None
    for state in range(len(model.rows) - 1, -1, -1):
        error = 10 ** (-model.rows[state].psnr(table.at(state), detail) / 10)
        if coarser is not None:
            error = min(error, coarser)
            yield from _inside(table, state, coarser, error)
        coarser = error
        yield state, 0, -10 * math.log10(error)


def _inside(
    table: DistortionTable, state: int, coarser: float, finer: float
) -> Iterator[tuple[int, int, float]]:
    before, after = (sum(table.at(place).values()) for place in (state + 1, state))
    reached = coarser
    for passes in range(1, table.passes(state)):
        gone = before - sum(table.at(state + 1, passes).values())
        way = min(max(gone / max(before - after, LEAST), 0.0), 1.0)
        reached = min(reached, coarser + (finer - coarser) * way)
        yield state + 1, passes, -10 * math.log10(reached)
