"""Codecs of features in layers: what is decoded, one chain of states, and a bundle's chains.

A chain is an operating point: its layers go from its coarsest state to its finest, a range coder
message each, so that leaving out the last ones gives a coarser state. A bitstream is of one chain,
which is known by the state that it begins with.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from codec.base import FloatArray
from codec.settings import DiffusionState, FeatureSettings, PlaneSpec
from codec.standalone import check_bundle, check_target, no_regions, too_small
from shared.bitstream import FORMAT_VERSION, Bitstream, Layer, PartialLayer, format3
from shared.bitstream.container import header_bytes, layer_bytes, partial_layer_bytes
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError, BundleError
from shared.targets import FINEST, RateTarget, Regions, check_regions

Features = Mapping[str, FloatArray]
"""float32 [C, h, w] a scale."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureLatents:
    """Quantised features per scale (float32 [C, h, w]) at ``state``.

    state: the finest complete state. width, height: of the picture before padding, in pixels.
    indices: the integers that were decoded, by plane: int32 [h, w] of a palette, nodes at
    ``depths``; int32 [C, h, w] of a lattice, whole steps. depths: uint8 [h, w] a plane, how deep
    each position is described: that of the state, or greater where a partial layer refines it.
    progress: how much of the way to the next finer state the partial layer's passes cover, 0
    without one, below 1 where a pass that has any position is still to come. grey: the photo had
    no colour.
    """

    scales: Mapping[str, FloatArray]
    state: int
    width: int
    height: int
    indices: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    depths: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    progress: float = 0.0
    grey: bool = False

    @property
    def batch_key(self) -> Hashable:
        """The shape of every scale."""
        return tuple((name, array.shape) for name, array in sorted(self.scales.items()))

    def checksum(self) -> bytes:
        """See :meth:`codec.base.Latents.checksum`."""
        digest = hashlib.sha256(repr((self.state, self.width, self.height)).encode())
        for name in sorted(self.indices):
            for grid in (self.indices[name], self.depths[name].astype(np.int32)):
                digest.update(repr((name, grid.shape)).encode())
                digest.update(np.ascontiguousarray(grid, "<i4").tobytes())
        return digest.digest()


_MESSAGE_SLACK_BYTES = 16

Step = TypeVar("Step")
Contexts = TypeVar("Contexts")
Symbols = npt.NDArray[Any]
Models = npt.NDArray[Any]
"""What symbols are coded with, one each: a probability, or a table's number."""


class Encoder(Protocol):
    """Collects symbols to a message."""

    def encode(self, symbols: Any, models: Any, /) -> None:
        """Append symbols."""

    def payload(self) -> bytes:
        """The message so far."""


class Decoder(Protocol):
    """Reads the symbols of a message."""

    def decode(self, models: Any, /) -> Symbols:
        """The next symbols. Raises BitstreamError ``bad_payload``."""

    def finish(self) -> None:
        """Raise BitstreamError ``bad_payload`` unless the message is exactly what was read."""


class StatePalette(ABC, Generic[Step]):
    """A chain's states, finest first, and the passes that lead from one to the next."""

    def __init__(self, planes: Sequence[PlaneSpec], states: Sequence[DiffusionState]) -> None:
        """Raises BundleError ``bad_planes`` or ``bad_states`` for tables that do not fit."""
        self.states = tuple(states)
        expected: dict[str, int] = {}
        for plane in planes:
            if plane.first_channel != expected.get(plane.scale, 0):
                raise BundleError("bad_planes", f"scale {plane.scale}: planes leave a gap")
            expected[plane.scale] = plane.first_channel + plane.channels
        if not self.states:
            raise BundleError("bad_states", "the state table is empty")
        finer = tuple(plane.depth for plane in planes)
        for position, row in enumerate(self.states):
            if row.state != self.finest_state + position or len(row.depths) != len(planes):
                raise BundleError("bad_states", f"row {position} of the state table is malformed")
            if any(here > above for here, above in zip(row.depths, finer, strict=True)):
                raise BundleError("bad_states", f"state {row.state} is finer than the one before")
            finer = row.depths

    @property
    def finest_state(self) -> int:
        """The first state of the chain: 0, unless finer chains come before it in the bundle."""
        return self.states[0].state

    @property
    def coarsest_state(self) -> int:
        """The last state of the chain."""
        return self.states[-1].state

    @abstractmethod
    def passes(self, state: int) -> tuple[Step, ...]:
        """What leads from state ``state + 1`` to ``state``, in the stream's order."""


class ChainCodec(ABC, Generic[Step, Contexts]):
    """Composes, shortens, checks and reads bitstreams of one chain; palettes are subclasses'."""

    def __init__(
        self, bundle: Bundle, settings: FeatureSettings, palette: StatePalette[Step]
    ) -> None:
        """bundle: which the chain is of; settings: the bundle's; palette: the chain's."""
        self._bundle, self._settings = bundle, settings
        self.states = range(palette.finest_state, palette.coarsest_state + 1)
        """The chain's states, finest first."""
        self.passes = palette.passes
        self._strides = {scale.name: scale.stride for scale in settings.scales}
        self._channels = {scale.name: scale.channels for scale in settings.scales}

    # -- what a kind of palette gives -------------------------------------------------------------

    @abstractmethod
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

    @abstractmethod
    def decode(self, bitstream: Bitstream) -> FeatureLatents:
        """See :meth:`codec.base.EdgeCodec.decode`."""

    @abstractmethod
    def _open(self, width: int, height: int) -> Contexts:
        """Begin a picture of which nothing is known."""

    @abstractmethod
    def _models(self, contexts: Contexts, step: Step) -> Models:
        """What the symbols of a pass are coded with."""

    @abstractmethod
    def _advance(self, contexts: Contexts, step: Step, symbols: Symbols) -> None:
        """Learn the symbols of a pass."""

    @abstractmethod
    def _encoder(self, version: int) -> Encoder: ...

    @abstractmethod
    def _decoder(self, version: int, payload: bytes) -> Decoder: ...

    @abstractmethod
    def _most_bits(self, step: Step, width: int, height: int) -> int:
        """More than a pass of such a picture can take."""

    @abstractmethod
    def _symbols(self, contexts: Contexts, step: Step) -> int:
        """How many symbols a pass has."""

    # -- what all of them share -------------------------------------------------------------------

    def shorten(self, bitstream: Bitstream, max_bytes: int) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.shorten`."""
        self._check(bitstream)
        if bitstream.file_bytes <= max_bytes:
            return bitstream
        shorter = self._again(bitstream, bitstream.version, max_bytes)
        if shorter.layers != bitstream.layers[: len(shorter.layers)]:
            raise BitstreamError("bad_payload", "no encoder writes such layers")
        return shorter

    def recode(self, bitstream: Bitstream, version: int) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.recode`."""
        self._check(bitstream)
        if bitstream.version == version:
            return bitstream
        self._read(bitstream)  # what no encoder writes is not to become what one does
        return self._again(bitstream, version, None)

    def _again(self, bitstream: Bitstream, version: int, max_bytes: int | None) -> Bitstream:
        """Code what a bitstream says once more: in another version, or in fewer bytes."""
        parts: dict[int, bytes] = {layer.state: layer.payload for layer in bitstream.layers}
        passes = 0
        if bitstream.partial is not None:
            parts[bitstream.partial.state] = bitstream.partial.payload
            passes = bitstream.partial.passes
        decoders: dict[int, Decoder] = {}

        def source(state: int, contexts: Contexts, step: Step, models: Models) -> Symbols:
            if state not in decoders:
                decoders[state] = self._decoder(bitstream.version, parts[state])
            return decoders[state].decode(models)

        return self._compose(
            bitstream.width,
            bitstream.height,
            source,
            bitstream.state,
            passes,
            max_bytes,
            version,
            grey=bitstream.grey and version != format3.VERSION,
        )

    def _read(self, bitstream: Bitstream) -> Contexts:
        self._check(bitstream)
        contexts = self._open(bitstream.width, bitstream.height)
        for layer in bitstream.layers:
            decoder = self._decoder(bitstream.version, layer.payload)
            self._read_layer(contexts, layer.state, decoder, None)
        if (partial := bitstream.partial) is not None:
            decoder = self._decoder(bitstream.version, partial.payload)
            self._read_layer(contexts, partial.state, decoder, partial.passes)
        return contexts

    def _read_layer(
        self, contexts: Contexts, state: int, decoder: Decoder, passes: int | None
    ) -> None:
        try:
            for step in self.passes(state)[:passes]:
                self._advance(contexts, step, decoder.decode(self._models(contexts, step)))
            decoder.finish()
        except BitstreamError as error:
            raise BitstreamError(error.reason, f"layer of state {state}: {error.message}") from None

    def _compose(
        self,
        width: int,
        height: int,
        source: Callable[[int, Contexts, Step, Models], Symbols],
        state: int,
        passes: int,
        max_bytes: int | None,
        version: int,
        *,
        grey: bool,
    ) -> Bitstream:
        """Code layers down to ``state`` and ``passes`` of the next while they fit.

        source: gives the symbols of a state's pass. version: of the container's format. grey: the
        photo has no colour.
        """
        before = partial(header_bytes, version, width, height, grey=grey)
        contexts = self._open(width, height)
        coarsest = self.states[-1]
        layers = [whole(self._code_layer(contexts, coarsest, source, version))]
        total = layer_bytes(len(layers[0].payload), version)
        needed = total + before(coarsest, 1)
        if max_bytes is not None and needed > max_bytes:
            raise too_small(max_bytes, coarsest, needed)
        rest: PartialLayer | None = None
        for here in range(coarsest - 1, state - 1 - bool(passes), -1):
            room: int | None = None
            if max_bytes is not None:
                # The header of what ends here, and of what ends before it with a part of this.
                headers = (before(here, len(layers) + 1), before(here + 1, len(layers)))
                room = max_bytes - total - max(headers)
            coded = self._code_layer(
                contexts,
                here,
                source,
                version,
                passes=passes if here < state else None,
                room=room,
            )
            if not isinstance(coded, Layer):
                rest = coded
                break
            layers.append(coded)
            total += layer_bytes(len(coded.payload), version)
        return Bitstream(
            self._bundle.short_id,
            width,
            height,
            layers[-1].state,
            tuple(layers),
            rest,
            version,
            grey=grey,
        )

    def _code_layer(
        self,
        contexts: Contexts,
        state: int,
        source: Callable[[int, Contexts, Step, Models], Symbols],
        version: int,
        *,
        passes: int | None = None,
        room: int | None = None,
    ) -> Layer | PartialLayer | None:
        """The layer; or its first ``passes``; or those that fit into ``room`` bytes, if any do.

        After fewer than all passes ``contexts`` are spent.
        """
        steps = self.passes(state)
        encoder = self._encoder(version)
        fitting: PartialLayer | None = None
        for number, step in enumerate(steps, 1):
            models = self._models(contexts, step)
            symbols = source(state, contexts, step, models)
            self._advance(contexts, step, symbols)
            encoder.encode(symbols, models)
            if number == len(steps) or (room is None and number != passes):
                continue
            payload = encoder.payload()
            # A message only grows: once even the shortest framing is too long, so is all to come.
            if room is not None and layer_bytes(len(payload), version) > room:
                return fitting
            if room is None or partial_layer_bytes(number, len(payload), version) <= room:
                fitting = PartialLayer(state, number, payload)
            if number == passes:
                return fitting
        payload = encoder.payload()
        if room is not None and layer_bytes(len(payload), version) > room:
            return fitting
        return Layer(state, payload)

    def _progress(self, bitstream: Bitstream, contexts: Contexts) -> float:
        """The share of the next layer's symbols that a partial layer brings."""
        if bitstream.partial is None:
            return 0.0
        symbols = [self._symbols(contexts, step) for step in self.passes(bitstream.partial.state)]
        return sum(symbols[: bitstream.partial.passes]) / max(1, sum(symbols))

    def _check_passes(self, state: int, passes: int) -> None:
        if passes and not 0 < passes < len(
            self.passes(state - 1) if state > self.states[0] else ()
        ):
            raise ValueError(f"state {state} cannot be followed by {passes} passes")

    def _check_features(self, features: Features) -> None:
        for name, channels in self._channels.items():
            if name not in features or features[name].ndim != 3:
                raise ValueError(f"features of scale {name!r} are missing or not [C, h, w]")
            if features[name].shape[0] != channels or not np.isfinite(features[name]).all():
                raise ValueError(f"features of scale {name!r} must be {channels} finite channels")

    def _check_extent(self, shapes: dict[str, tuple[int, ...]], width: int, height: int) -> None:
        """shapes: of a grid of every scale."""
        if shapes != self._grids(width, height):
            raise ValueError(f"these are not the grids of a picture of {width}x{height} pixels")

    def _grids(self, width: int, height: int) -> dict[str, tuple[int, int]]:
        """Rows and columns of positions of every scale of a picture of that size."""
        rows, columns = self._settings.grid_pixels(width, height)
        return {name: (rows // stride, columns // stride) for name, stride in self._strides.items()}

    def _check(self, bitstream: Bitstream) -> None:
        for layer in bitstream.layers:
            self._check_payload(bitstream, layer, self.passes(layer.state))
        if (partial := bitstream.partial) is not None:
            steps = self.passes(partial.state)
            if partial.passes >= len(steps):
                raise BitstreamError(
                    "bad_passes",
                    f"{partial.passes} passes of state {partial.state}; its layer has "
                    f"{len(steps)}, and one with all of them is no partial layer",
                )
            self._check_payload(bitstream, partial, steps[: partial.passes])

    def _check_payload(
        self, bitstream: Bitstream, layer: Layer | PartialLayer, steps: Sequence[Step]
    ) -> None:
        most = sum(self._most_bits(step, bitstream.width, bitstream.height) for step in steps) // 8
        if len(layer.payload) > most + _MESSAGE_SLACK_BYTES:
            raise BitstreamError(
                "limit_exceeded",
                f"layer of state {layer.state}: {len(layer.payload)} bytes are more than "
                f"its {most} symbols' bytes can be",
            )


def shapes_of(features: Features) -> dict[str, tuple[int, ...]]:
    """Rows and columns of every scale."""
    return {name: values.shape[1:] for name, values in features.items()}


def whole(coded: Layer | PartialLayer | None) -> Layer:
    """A layer that was coded without a limit."""
    assert isinstance(coded, Layer), "without a limit a layer is coded whole"
    return coded


Chain = TypeVar("Chain", bound=ChainCodec[Any, Any])


class ChainsCodec(Generic[Chain]):
    """Encodes features to layers and decodes layers to colours; see the design of the codec.

    A bundle's chains are its operating points: a bitstream is of one of them, known
    by the state that it begins with.
    """

    def __init__(self, bundle: Bundle, settings: FeatureSettings, chains: Sequence[Chain]) -> None:
        """chains: finest first. Raises BundleError when their states do not follow each other."""
        self._bundle, self.settings, self.chains = bundle, settings, list(chains)
        first = 0
        for chain in chains:
            if chain.states[0] != first:
                raise BundleError("bad_states", f"state {chain.states[0]} comes after {first - 1}")
            first = chain.states[-1] + 1

    def passes(self, state: int) -> int:
        """See :meth:`codec.base.EdgeCodec.passes`."""
        chain = next(chain for chain in self.chains if state in chain.states)
        return len(chain.passes(state))

    # -- to bits ---------------------------------------------------------------------------------

    def check(self, target: RateTarget) -> None:
        """See :meth:`codec.base.EdgeCodec.check`."""
        check_target(target, self._bundle, psnr=self.settings.psnr_model is not None)

    def check_regions(self) -> None:
        """See :meth:`codec.base.EdgeCodec.check_regions`."""
        raise no_regions(
            self._bundle,
            "its states leave out channels of the whole picture, not of parts of it",
        )

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
        """See :meth:`codec.base.EdgeCodec.encode`.

        A budget is met by the finest chain that fits into it with its coarsest state at least.
        """
        self.check(target)
        if check_regions(regions, target, rate_weight):
            self.check_regions()
        last = self.chains[-1]
        for chain in self.chains:
            if target.state is not None and target.state > chain.states[-1]:
                continue
            try:
                return chain.encode(
                    features,
                    width,
                    height,
                    target,
                    rate_weight=rate_weight,
                    detail=detail,
                    regions=regions,
                    version=version,
                    grey=grey,
                )
            except BudgetError as error:
                if error.reason != "budget_too_small" or chain is last:
                    raise
        raise AssertionError("unreachable: the target's state was checked")

    def shorten(self, bitstream: Bitstream, max_bytes: int) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.shorten`. It stays in its chain."""
        return self._chain_of(bitstream).shorten(bitstream, max_bytes)

    def recode(self, bitstream: Bitstream, version: int) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.recode`."""
        return self._chain_of(bitstream).recode(bitstream, version)

    # -- from bits -------------------------------------------------------------------------------

    def decode(self, bitstream: Bitstream) -> FeatureLatents:
        """See :meth:`codec.base.EdgeCodec.decode`."""
        return self._chain_of(bitstream).decode(bitstream)

    def _chain_of(self, bitstream: Bitstream) -> Chain:
        check_bundle(bitstream, self._bundle)
        begins = bitstream.layers[0].state
        for chain in self.chains:
            finest = chain.states[0]
            if begins == chain.states[-1] and bitstream.state >= finest:
                if bitstream.partial is not None and bitstream.partial.state < finest:
                    break
                return chain
        starts = " or ".join(str(chain.states[-1]) for chain in self.chains)
        raise BitstreamError(
            "bad_state",
            f"begins at state {begins} and ends at {bitstream.state}; this bundle's begin at "
            f"{starts}",
        )
