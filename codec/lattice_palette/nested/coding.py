"""The coder of nested lattices: one chain of states, key frames and predicted ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from codec.areas.regions import States, grid_of_states
from codec.base import FloatArray
from codec.entropy import BitReader, BitWriter, bit_decoder, bit_encoder
from codec.latents import FeatureLatents, Features
from codec.lattice_palette.nested.choice import at_depth, choose
from codec.lattice_palette.nested.contexts import NestedContexts
from codec.lattice_palette.nested.palette import (
    RATIO,
    Depths,
    Integers,
    NestedPalette,
    NestedPass,
    Values,
)
from codec.lattice_palette.nested.picture import Bits, Exchange, PictureNested
from codec.layered import ChainCodec, shapes_of
from codec.settings import FeatureSettings
from codec.standalone import unreachable
from shared.bitstream import FORMAT_VERSION, Bitstream, Reference
from shared.bundle import Bundle
from shared.targets import FINEST, RateTarget, Regions

Source = Callable[[int, PictureNested, NestedPass, npt.NDArray[np.uint16]], Bits]

_NEW_SCENE: Final = 0.6
"""The share of positions that change from which on a key frame is tried too."""
_WORST_BITS_PER_VALUE: Final = 64


class NestedChain(ChainCodec[NestedPass, PictureNested]):
    """Encodes features to the layers of one chain of nested lattices and decodes them."""

    def __init__(
        self,
        bundle: Bundle,
        settings: FeatureSettings,
        palette: NestedPalette,
        contexts: NestedContexts,
    ) -> None:
        """palette, contexts: of this chain; bundle: which it is of."""
        super().__init__(bundle, settings, palette)
        self.palette, self.contexts = palette, contexts
        self._scale = palette.specs[0].scale

    @property
    def predicts(self) -> bool:
        """Whether the bundle has contexts of predicted frames."""
        return self.contexts.predicts

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
        """See :meth:`codec.base.EdgeCodec.encode`.

        A key frame's values are the nearest whole steps. rate_weight: squared steps, of each
        channel's own lattice, that a bit is worth in a predicted frame. Of a budget, a predicted
        frame's choice is made for the finest state. Outside of regions values are those that are
        cheapest to tell of all that the coarser ones may become.
        """
        self._check_features(features)
        self._check_extent(shapes_of(features), width, height)
        frame = _Frame(features, width, height, rate_weight, reference, distance, version, grey)
        budget = target.budget_bytes(width, height)
        state = self.states[0] if target.state is None else target.state
        if regions:
            finest = max(self.states[0], min(region.state for region in regions))
            grid, stride = self._grids(width, height)[self._scale], self._strides[self._scale]

            def coded(rest: int, max_bytes: int | None) -> Bitstream:
                states = grid_of_states(regions, rest, width, height, *grid, stride)
                return self._coded(frame, min(rest, finest), max_bytes, states)

            return self._around_regions(coded, finest, state, budget)
        if target.psnr_db is not None:
            state = self._reaching(frame, target.psnr_db, detail, best_effort=target.best_effort)
        return self._coded(frame, state, budget)

    def _coded(
        self, frame: _Frame, state: int, max_bytes: int | None, states: States | None = None
    ) -> Bitstream:
        """A frame, or as much of it as goes into so many bytes. states: of every position, of which
        the finest is ``state``; None is that for all."""
        depths, reference = self.palette.depths(state), frame.reference

        def composed(values: Values, there: FeatureLatents | None) -> Bitstream:
            referred = None
            if there is not None:
                referred = Reference(frame.distance, self.reference_checksum(there))
            if states is not None:
                values = self._cut(values, state, states, there)
            return self._compose(
                frame.width,
                frame.height,
                _wanted,
                state,
                0,
                max_bytes,
                frame.version,
                grey=frame.grey,
                reference=there,
                referred=referred,
                begin=lambda contexts: contexts.aim(values, depths),
                remember=True,
            )

        chosen, changed = self._chosen(frame, state)
        made = composed(chosen, reference)
        if reference is None or changed < _NEW_SCENE:
            return made
        kept = self._encoded
        key_frame = composed(self.palette.quantise(frame.features, state), None)
        better = (key_frame.state, key_frame.file_bytes) <= (made.state, made.file_bytes)
        if better:
            return key_frame
        self._encoded = kept
        return made

    def _chosen(self, frame: _Frame, state: int) -> tuple[dict[str, Integers], float]:
        """See :func:`~codec.lattice_palette.nested.choice.choose`; of a key frame all changes."""
        if frame.reference is None:
            return self.palette.quantise(frame.features, state), 1.0
        weight = float(self.palette.weights[state - self.states[0]])
        weight = weight if frame.rate_weight is None else frame.rate_weight
        there = (frame.reference.indices, frame.reference.depths)
        return choose(self.palette, frame.features, there, state, weight)

    def _cut(
        self, values: Values, state: int, states: States, reference: FeatureLatents | None
    ) -> dict[str, Integers]:
        """Values at ``state`` that say no more of each position than its own state has: what is
        expected of them where that is coarser."""
        found = {}
        by_state = np.array([self.palette.depths(row.state) for row in self.palette.states])
        rows = by_state[np.maximum(states, state) - self.states[0]]
        for n, (spec, depth) in enumerate(
            zip(self.palette.specs, self.palette.depths(state), strict=True)
        ):
            wanted = rows[:, :, n].astype(np.uint8)
            whole, surplus = np.full_like(wanted, depth), depth - wanted.astype(np.int32)
            coarse = at_depth(self.palette, values[spec.name], whole, wanted)
            likely = coarse * RATIO**surplus
            if reference is not None and int(reference.depths[spec.name].min()) >= depth:
                before = at_depth(
                    self.palette, reference.indices[spec.name], reference.depths[spec.name], whole
                )
                kept = before.clip(*self.palette.below(coarse, surplus))
                likely = np.where(wanted > 0, kept, before)
            found[spec.name] = np.where(surplus > 0, likely, values[spec.name]).astype(np.int32)
        return found

    def _reaching(
        self, frame: _Frame, wanted: float, detail: Sequence[float] | None, *, best_effort: bool
    ) -> int:
        """The coarsest state of which so many decibels are expected."""
        model = self._settings.psnr_model
        assert model is not None
        if detail is None:
            raise ValueError("a PSNR target needs the photo's detail")
        expected = -math.inf
        for state in reversed(self.states):
            distortion = self.palette.distortion(
                frame.features, self._chosen(frame, state)[0], state
            )
            expected = model.rows[state].psnr(distortion, detail)
            if expected >= wanted:
                return state
        if best_effort:
            return self.states[0]
        raise unreachable(wanted, expected)

    # -- parts -----------------------------------------------------------------------------------

    def _found(
        self, contexts: PictureNested
    ) -> tuple[dict[str, npt.NDArray[np.int32]], dict[str, npt.NDArray[np.uint8]]]:
        return contexts.found()

    def _colours(self, indices: Values, depths: Depths) -> Mapping[str, FloatArray]:
        return self.palette.decode(indices, depths)

    def _coarser(
        self,
        plane: str,
        indices: npt.NDArray[np.int32],
        depths: npt.NDArray[np.uint8],
        wanted: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.int32]:
        return at_depth(self.palette, indices, depths, wanted)

    def _given(self, latents: FeatureLatents) -> tuple[Source, Callable[[PictureNested], None]]:
        # Where a partial layer told some positions more than others, the others have no more.
        depths = [int(latents.depths[spec.name].max()) for spec in self.palette.specs]
        values = {}
        for spec, depth in zip(self.palette.specs, depths, strict=True):
            lacking = depth - latents.depths[spec.name].astype(np.int32)
            values[spec.name] = latents.indices[spec.name] * 3**lacking
        return _wanted, lambda contexts: contexts.aim(values, depths)

    def _told(self, contexts: PictureNested, step: NestedPass, latents: FeatureLatents) -> bool:
        depths = latents.depths[step.plane].reshape(-1)
        return bool((depths[contexts.places(step)] > step.depth).all())

    def _open(
        self, width: int, height: int, reference: FeatureLatents | None = None
    ) -> PictureNested:
        shape = self._grids(width, height)[self._scale]
        there = None if reference is None else (reference.indices, reference.depths)
        return self.contexts.open(shape, there)

    def _run(
        self, contexts: PictureNested, state: int, step: NestedPass, exchange: Exchange
    ) -> None:
        contexts.begin(state)
        contexts.run(step, exchange)

    def _steps(self, state: int, *, predicted: bool) -> tuple[NestedPass, ...]:
        if predicted:
            return self.palette.predicted_passes(state)
        return self.palette.passes(state)

    def _encoder(self, version: int) -> BitWriter:
        return bit_encoder(version)

    def _decoder(self, version: int, payload: bytes) -> BitReader:
        return bit_decoder(version, payload)

    def _most_bits(self, step: NestedPass, width: int, height: int) -> int:
        rows, columns = self._grids(width, height)[self._scale]
        channels = 1
        if step.plane:
            channels = self.palette.planes[step.plane].spec.channels
        return _WORST_BITS_PER_VALUE * (rows * columns + 1) * channels

    def _symbols(self, contexts: PictureNested, step: NestedPass) -> int:
        if not step.plane:
            return 0
        return len(contexts.places(step)) * self.palette.planes[step.plane].spec.channels


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """What is coded, and how; see :meth:`codec.base.EdgeCodec.encode`."""

    features: Features
    width: int
    height: int
    rate_weight: float | None
    reference: FeatureLatents | None
    distance: int
    version: int
    grey: bool


def _wanted(
    state: int, contexts: PictureNested, step: NestedPass, odds: npt.NDArray[np.uint16]
) -> Bits:
    """The bits of what contexts were told to aim at."""
    return contexts.wanted()
