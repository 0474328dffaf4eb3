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
from typing import Final

import numpy as np
import numpy.typing as npt

from codec.areas.regions import States, grid_of_states
from codec.base import FloatArray
from codec.chains import ChainsCodec
from codec.entropy import BitReader, BitWriter, bit_decoder, bit_encoder
from codec.latents import FeatureLatents, Features
from codec.layered import REPEAT, ChainCodec, shapes_of
from codec.markov_palette.assignment import (
    Assignment,
    Bits,
    KnownLeaves,
    RateAwareAssignment,
    RegionAssignment,
)
from codec.markov_palette.contexts import ContextModel, PictureContexts
from codec.markov_palette.palette import Depths, Indices, MarkovPalette, Pass
from codec.markov_palette.temporal.assignment import Follower, FollowingLeaves
from codec.markov_palette.temporal.contexts import PredictedContexts, TemporalModel
from codec.settings import CONTEXTS_FILE, LEAST, PALETTE_FILE, FeatureSettings, PsnrModel
from codec.standalone import unreachable
from shared.bitstream import FORMAT_VERSION, Bitstream, Reference
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError
from shared.targets import FINEST, RateTarget, Regions

_WORST_BITS_PER_SPLIT = 16

_NO_MODELS: Final = np.empty(0, np.uint16)
_KEY_SHARE: Final = 0.82
"""Of what static odds cost, that a key frame takes with its contexts, about."""
_FRAMING_BYTES: Final = 24
"""Of headers and layers, about."""
_WORTH_SHARE: Final = 0.8
"""Of what a key frame is expected to take: where a predicted frame takes more, both are coded."""

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
        temporal: TemporalModel | None = None,
    ) -> None:
        """palette, contexts: of this chain; temporal: of its predicted frames, if there are any;
        bundle: which it is of."""
        super().__init__(bundle, settings, palette)
        self.palette = palette
        self.contexts, self.temporal = contexts, temporal
        self._follower = None if temporal is None else Follower(temporal)
        self._scales = {plane.name: plane.scale for plane in palette.planes}

    def with_temporal(self, temporal: TemporalModel) -> PaletteChain:
        """The same chain with other networks for predicted frames."""
        return PaletteChain(self._bundle, self._settings, self.palette, self.contexts, temporal)

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
        reference: FeatureLatents | None = None,
        distance: int = 1,
        version: int = FORMAT_VERSION,
        grey: bool = False,
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.encode`."""
        self._check_features(features)
        self._check_extent(shapes_of(features), width, height)
        if regions:
            return self._encode_regions(
                features,
                width,
                height,
                target,
                regions,
                rate_weight,
                version,
                grey,
                reference,
                distance,
            )
        if reference is not None and self._follower is not None:
            return self._encode_predicted(
                features, width, height, target, rate_weight, detail, version, grey, reference,
                distance, self._follower,
            )  # fmt: skip
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
        return self._compose(
            width, height, source, state, passes, budget, version, grey=grey, remember=True
        )

    def _encode_predicted(
        self,
        features: Features,
        width: int,
        height: int,
        target: RateTarget,
        rate_weight: float | None,
        detail: Sequence[float] | None,
        version: int,
        grey: bool,
        reference: FeatureLatents,
        distance: int,
        follower: Follower,
    ) -> Bitstream:
        """A predicted frame; or a key frame, where that is no larger or all that fits."""

        def alone() -> Bitstream:
            return self.encode(
                features, width, height, target, rate_weight=rate_weight, detail=detail,
                version=version, grey=grey,
            )  # fmt: skip

        nodes, known = self._nodes(reference), reference.state
        state, passes = self._state(target), 0
        leaves = follower.leaves(features, nodes, known, state, rate_weight=rate_weight)
        if target.psnr_db is not None:
            state, passes = self._reaching(features, leaves, target, detail)
        budget = target.budget_bytes(width, height)
        try:
            made = self._compose_predicted(
                width, height, leaves, state, passes, budget, version, grey, reference, distance
            )
        except BudgetError as error:
            if error.reason != "budget_too_small":
                raise
            return alone()
        expected = _KEY_SHARE * follower.static_bits(leaves, made.state) / 8
        if made.file_bytes < _WORTH_SHARE * expected + _FRAMING_BYTES:
            return made
        remembered = self._encoded
        key = alone()
        if (key.state, key.file_bytes) <= (made.state, made.file_bytes):
            return key
        self._encoded = remembered
        return made

    def _compose_predicted(
        self,
        width: int,
        height: int,
        leaves: Indices,
        state: int,
        passes: int,
        max_bytes: int | None,
        version: int,
        grey: bool,
        reference: FeatureLatents,
        distance: int,
    ) -> Bitstream:
        assert self.temporal is not None
        return self._compose(
            width,
            height,
            FollowingLeaves(self.temporal, leaves),
            state,
            passes,
            max_bytes,
            version,
            grey=grey,
            reference=reference,
            referred=Reference(distance, self.reference_checksum(reference)),
            remember=True,
        )

    def _encode_regions(
        self,
        features: Features,
        width: int,
        height: int,
        target: RateTarget,
        regions: Regions,
        rate_weight: float | None,
        version: int,
        grey: bool,
        reference: FeatureLatents | None,
        distance: int,
    ) -> Bitstream:
        """Regions to their own states, the rest to the target's, or to what a budget leaves."""
        finest = max(self.states[0], min(region.state for region in regions))
        budget = target.budget_bytes(width, height)

        def coded(rest: int, max_bytes: int | None = None) -> Bitstream:
            states = self._states_of(regions, rest, width, height)
            state = min(rest, finest)
            if reference is not None and self._follower is not None:
                leaves = self._follower.leaves(
                    features,
                    self._nodes(reference),
                    reference.state,
                    state,
                    rate_weight=rate_weight,
                    states=states,
                )
                return self._compose_predicted(
                    width, height, leaves, state, 0, max_bytes, version, grey, reference, distance
                )
            nearest = rate_weight is not None
            source = self._source(RegionAssignment(self.palette, features, states, nearest=nearest))
            return self._compose(
                width, height, source, state, 0, max_bytes, version, grey=grey, remember=True
            )

        return self._around_regions(coded, finest, self._state(target), budget)

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
        contexts = self.contexts.open(self._by_plane(shapes_of(features)))
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
        reference: FeatureLatents | None = None,
        distance: int = 1,
    ) -> Bitstream:
        """The bitstream of indices (of the finest state): to ``state``, ``passes`` of the next.

        max_bytes: of the whole file; less is coded where that is not enough. reference: of a
        predicted frame. Raises as :meth:`encode` does, and ValueError when there are no such
        passes.
        """
        shapes = {self._scales[name]: grid.shape for name, grid in indices.items()}
        self._check_extent(shapes, width, height)
        state = self.palette.finest_state if state is None else state
        self._check_passes(state, passes)
        if reference is not None:
            return self._compose_predicted(
                width,
                height,
                indices,
                state,
                passes,
                max_bytes,
                version,
                False,
                reference,
                distance,
            )
        source = self._source(KnownLeaves(self.palette, indices))
        return self._compose(width, height, source, state, passes, max_bytes, version, grey=False)

    # -- parts -----------------------------------------------------------------------------------

    def _found(self, contexts: PictureContexts) -> tuple[Indices, Depths]:
        names = [plane.name for plane in self.palette.planes]
        indices = {name: contexts.indices(name) for name in names}
        return indices, {name: contexts.depths(name) for name in names}

    def _colours(
        self,
        indices: Mapping[str, npt.NDArray[np.int32]],
        depths: Mapping[str, npt.NDArray[np.uint8]],
    ) -> Mapping[str, FloatArray]:
        return self.palette.decode_mixed(dict(indices), dict(depths))

    def _coarser(
        self,
        plane: str,
        indices: npt.NDArray[np.int32],
        depths: npt.NDArray[np.uint8],
        wanted: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.int32]:
        return indices >> (depths - wanted).astype(np.int32)

    def _given(self, latents: FeatureLatents) -> tuple[BitSource, None]:
        finest = {
            plane.name: latents.indices[plane.name]
            << (plane.depth - latents.depths[plane.name].astype(np.int32))
            for plane in self.palette.planes
        }
        return self._source(KnownLeaves(self.palette, finest)), None

    def _told(self, contexts: PictureContexts, step: Pass, latents: FeatureLatents) -> bool:
        depths = latents.depths[step.plane].reshape(-1)
        return bool((depths[contexts.positions(step.plane, step.side)] > step.depth).all())

    @property
    def predicts(self) -> bool:
        """See :attr:`codec.base.Half.predicts`."""
        return self.temporal is not None

    def _open(
        self, width: int, height: int, reference: FeatureLatents | None = None
    ) -> PictureContexts:
        shapes = self._by_plane(self._grids(width, height))
        if reference is None or self.temporal is None:
            return self.contexts.open(shapes)
        return self.temporal.open(shapes, self._nodes(reference), reference.state)

    def _nodes(self, latents: FeatureLatents) -> Indices:
        """Nodes at the latents' state; what a partial layer told is left out."""
        depths = self.palette.depths(latents.state)
        return {
            name: grid >> (latents.depths[name] - np.uint8(depths[name])).astype(np.int32)
            for name, grid in latents.indices.items()
        }

    def _repeats(
        self, contexts: PictureContexts, state: int, source: Callable[..., Bits] | None
    ) -> bool:
        if not isinstance(contexts, PredictedContexts) or contexts.alone:
            return False
        if source is None:
            contexts.check_reference(state)
        elif contexts.reference_state > state:
            return False
        if not contexts.follows(state):
            if source is None:
                raise BitstreamError("bad_payload", "what was left cannot be repeated")
            return False
        if source is not None and not source(state, contexts, REPEAT, _NO_MODELS)[0]:
            return False
        contexts.follow(state)
        return True

    def _run(
        self,
        contexts: PictureContexts,
        state: int,
        step: Pass,
        exchange: Callable[[npt.NDArray[np.uint16]], Bits],
    ) -> None:
        if isinstance(contexts, PredictedContexts):
            contexts.run(state, step, exchange)
        else:
            contexts.advance(*step, exchange(contexts.probabilities(*step)))

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
        raise unreachable(wanted, expected)

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
            temporal = TemporalModel.from_arrays(model, contexts)
            chains.append(PaletteChain(bundle, settings, palette, model, temporal))
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
