"""Codecs of features in layers: one chain of states, and a bundle's chains.

A chain is an operating point: its layers go from its coarsest state to its finest, a range coder
message each, so that leaving out the last ones gives a coarser state. A bitstream is of one chain,
which is known by the state that it begins with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from codec.base import FloatArray
from codec.latents import FeatureLatents, Features, PackedLatents
from codec.settings import DiffusionState, FeatureSettings, PlaneSpec
from codec.standalone import (
    reference_mismatch,
    too_small,
)
from shared.bitstream import FORMAT_VERSION, Bitstream, Layer, PartialLayer, Reference, format3
from shared.bitstream.container import header_bytes, layer_bytes, partial_layer_bytes
from shared.bitstream.layers import REFERENCE_CHECKSUM_BYTES
from shared.bundle import Bundle
from shared.errors import BitstreamError, BundleError
from shared.targets import FINEST, RateTarget, Regions

_MESSAGE_SLACK_BYTES = 16

REPEAT: Final = "repeat"
"""What a predicted frame's source is asked for before a layer: one symbol, 1 where it repeats its
reference."""

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
        self.plane_specs = tuple(planes)
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
        self._planes, self._rows = palette.plane_specs, palette.states
        self._encoded: tuple[Bitstream, Contexts] | None = None
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
        reference: FeatureLatents | None = None,
        distance: int = 1,
        version: int = FORMAT_VERSION,
        grey: bool = False,
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.encode`. A reference is one that :meth:`fits`."""

    @property
    def predicts(self) -> bool:
        """See :attr:`codec.base.Half.predicts`."""
        return False

    @abstractmethod
    def _open(self, width: int, height: int, reference: FeatureLatents | None = None) -> Contexts:
        """Begin a picture of which nothing is known but its reference."""

    @abstractmethod
    def _found(
        self, contexts: Contexts
    ) -> tuple[Mapping[str, npt.NDArray[np.int32]], Mapping[str, npt.NDArray[np.uint8]]]:
        """Indices and depths of all planes; see :class:`FeatureLatents`."""

    @abstractmethod
    def _colours(
        self,
        indices: Mapping[str, npt.NDArray[np.int32]],
        depths: Mapping[str, npt.NDArray[np.uint8]],
    ) -> Mapping[str, FloatArray]:
        """What they stand for: float32 [C, h, w] a scale."""

    @abstractmethod
    def _coarser(
        self,
        plane: str,
        indices: npt.NDArray[np.int32],
        depths: npt.NDArray[np.uint8],
        wanted: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.int32]:
        """A plane's indices at ``depths``, as they are at ``wanted``, which are no greater."""

    @abstractmethod
    def _given(
        self, latents: FeatureLatents
    ) -> tuple[Callable[[int, Contexts, Step, Models], Symbols], Callable[[Contexts], None] | None]:
        """The symbols that code what was decoded, and what is done with contexts first."""

    @abstractmethod
    def _told(self, contexts: Contexts, step: Step, latents: FeatureLatents) -> bool:
        """Whether the latents have what a pass tells."""

    @abstractmethod
    def _run(
        self, contexts: Contexts, state: int, step: Step, exchange: Callable[[Models], Symbols]
    ) -> None:
        """Tell one pass of a state's layer, in as many exchanges as it takes.

        exchange: given what the next symbols are coded with, codes them, or decodes them.
        """

    def _repeats(
        self,
        contexts: Contexts,
        state: int,
        source: Callable[[int, Contexts, Any, Models], Symbols] | None,
    ) -> bool:
        """Whether all that a layer tells is that its reference is repeated, which takes no bytes.

        source: of what is coded, asked for :data:`REPEAT`; None where an empty message was read,
        which raises BitstreamError where nothing can be repeated. Where it is, contexts advance.
        """
        return False

    def _steps(self, state: int, *, predicted: bool) -> tuple[Step, ...]:
        """The passes of a state's layer, in a predicted frame or in a key frame."""
        return self.passes(state)

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

    def decode(
        self, bitstream: Bitstream, reference: FeatureLatents | None = None
    ) -> FeatureLatents:
        """See :meth:`codec.base.Half.decode`."""
        encoded = self._encoded
        if encoded is not None and encoded[0] is bitstream:
            contexts = encoded[1]
        else:
            contexts = self._read(bitstream, reference)
        indices, depths = self._found(contexts)
        return FeatureLatents(
            self._colours(indices, depths),
            bitstream.state,
            bitstream.width,
            bitstream.height,
            indices,
            depths,
            self._progress(bitstream, contexts),
            bitstream.grey,
        )

    def fits(self, latents: FeatureLatents, width: int, height: int) -> bool:
        """Whether the latents can be a reference of such a picture in this chain."""
        return (
            self.predicts
            and latents.planes == self.names
            and (latents.width, latents.height) == (width, height)
        )

    @property
    def names(self) -> frozenset[str]:
        """Of the chain's planes."""
        return frozenset(spec.name for spec in self._planes)

    def cut(self, latents: FeatureLatents, state: int) -> FeatureLatents:
        """See :meth:`codec.base.Half.cut`. What a partial layer told is left out too."""
        state = min(max(state, latents.state), self.states[-1])
        if state == latents.state and not latents.progress:
            return latents
        row = self._rows[state - self.states[0]]
        indices, depths = {}, {}
        for spec, depth in zip(self._planes, row.depths, strict=True):
            before = latents.depths[spec.name]
            wanted = np.minimum(before, np.uint8(depth))
            here = latents.indices[spec.name]
            indices[spec.name] = self._coarser(spec.name, here, before, wanted)
            depths[spec.name] = wanted
        return replace(
            latents,
            scales=self._colours(indices, depths),
            state=state,
            indices=indices,
            depths=depths,
            progress=0.0,
        )

    def reference_checksum(self, latents: FeatureLatents) -> bytes:
        """See :meth:`codec.base.Half.reference_checksum`."""
        return self.cut(latents, self.states[-1]).checksum()[:REFERENCE_CHECKSUM_BYTES]

    def key_frame(self, latents: FeatureLatents, version: int) -> Bitstream:
        """See :meth:`codec.base.Half.key_frame`."""
        passes = 0
        if latents.progress:
            contexts = self._open(latents.width, latents.height)
            steps = self.passes(latents.state - 1)
            passes = next(
                (n for n, step in enumerate(steps) if not self._told(contexts, step, latents)),
                len(steps) - 1,
            )
        source, begin = self._given(latents)
        return self._compose(
            latents.width,
            latents.height,
            source,
            latents.state,
            passes,
            None,
            version,
            grey=latents.grey and version != format3.VERSION,
            begin=begin,
        )

    def restored(self, packed: PackedLatents) -> FeatureLatents:
        """The latents of which these are the parts. Raises BitstreamError ``bad_latents``."""
        grids = self._grids(packed.width, packed.height)
        for spec in self._planes:
            depths = packed.depths[spec.name]
            if depths.shape != grids[spec.scale] or depths.max(initial=0) > spec.depth:
                raise BitstreamError("bad_latents", f"plane {spec.name} has other positions")
            if packed.indices[spec.name].shape[-2:] != depths.shape:
                raise BitstreamError("bad_latents", f"plane {spec.name} has other values")
        return FeatureLatents(
            self._colours(packed.indices, packed.depths),
            packed.state,
            packed.width,
            packed.height,
            packed.indices,
            packed.depths,
            packed.progress,
            packed.grey,
        )

    def shorten(
        self, bitstream: Bitstream, max_bytes: int, reference: FeatureLatents | None = None
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.shorten`."""
        self._check(bitstream)
        if bitstream.file_bytes <= max_bytes:
            return bitstream
        shorter = self._again(bitstream, bitstream.version, max_bytes, reference)
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

    def _again(
        self,
        bitstream: Bitstream,
        version: int,
        max_bytes: int | None,
        reference: FeatureLatents | None = None,
    ) -> Bitstream:
        """Code what a bitstream says once more: in another version, or in fewer bytes."""
        parts: dict[int, bytes] = {layer.state: layer.payload for layer in bitstream.layers}
        passes = 0
        if bitstream.partial is not None:
            parts[bitstream.partial.state] = bitstream.partial.payload
            passes = bitstream.partial.passes
        decoders: dict[int, Decoder] = {}

        def source(state: int, contexts: Contexts, step: Any, models: Models) -> Symbols:
            if step is REPEAT:
                return np.array([not parts[state]], np.uint8)
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
            reference=reference,
            referred=bitstream.reference,
        )

    def _read(self, bitstream: Bitstream, reference: FeatureLatents | None = None) -> Contexts:
        self._check(bitstream)
        if bitstream.reference is None:
            reference = None
        elif reference is None or not self.fits(reference, bitstream.width, bitstream.height):
            raise reference_mismatch("a predicted frame, and a reference of another size or chain")
        predicted = reference is not None
        contexts = self._open(bitstream.width, bitstream.height, reference)
        for layer in bitstream.layers:
            decoder = self._decoder(bitstream.version, layer.payload)
            empty = predicted and not layer.payload
            self._read_layer(contexts, layer.state, decoder, None, predicted=predicted, empty=empty)
        if (partial := bitstream.partial) is not None:
            decoder = self._decoder(bitstream.version, partial.payload)
            self._read_layer(contexts, partial.state, decoder, partial.passes, predicted=predicted)
        return contexts

    def _read_layer(
        self,
        contexts: Contexts,
        state: int,
        decoder: Decoder,
        passes: int | None,
        *,
        predicted: bool,
        empty: bool = False,
    ) -> None:
        try:
            if empty and self._repeats(contexts, state, None):
                return
            for step in self._steps(state, predicted=predicted)[:passes]:
                self._run(contexts, state, step, decoder.decode)
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
        reference: FeatureLatents | None = None,
        referred: Reference | None = None,
        begin: Callable[[Contexts], None] | None = None,
        remember: bool = False,
    ) -> Bitstream:
        """Code layers down to ``state`` and ``passes`` of the next while they fit.

        source: gives the symbols of a state's pass. version: of the container's format. grey: the
        photo has no colour. reference: of a predicted frame; referred: how the file names it.
        begin: done with contexts first. remember: what is coded, for :meth:`decode`.
        """
        before = partial(header_bytes, version, width, height, reference=referred, grey=grey)
        contexts = self._open(width, height, reference)
        if begin is not None:
            begin(contexts)
        coarsest = self.states[-1]
        predicted = reference is not None
        first = self._code_layer(contexts, coarsest, source, version, predicted=predicted)
        layers = [whole(first)]
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
                predicted=predicted,
                passes=passes if here < state else None,
                room=room,
            )
            if not isinstance(coded, Layer):
                rest = coded
                break
            layers.append(coded)
            total += layer_bytes(len(coded.payload), version)
        made = Bitstream(
            self._bundle.short_id,
            width,
            height,
            layers[-1].state,
            tuple(layers),
            rest,
            version,
            referred,
            grey=grey,
        )
        # Contexts in which a pass was tried that did not fit are of no more use.
        tried = max_bytes is not None and made.state > state
        self._encoded = (made, contexts) if remember and rest is None and not tried else None
        return made

    def _around_regions(
        self,
        coded: Callable[[int, int | None], Bitstream],
        finest: int,
        rest: int,
        budget: int | None,
    ) -> Bitstream:
        """What :meth:`encode` gives with regions, of which the finest has the state ``finest``.

        coded: codes with a state for what lies outside of them, and with at most so many bytes.
        rest: that state, where there is no budget; a budget gives regions all that they want, if it
        can, and the rest what is left.
        """
        if budget is None:
            return coded(rest, None)
        best: tuple[Bitstream, tuple[Bitstream, Contexts] | None] | None = None
        low, high = finest, self.states[-1]
        while low <= high:
            rest = (low + high) // 2
            found = coded(rest, None)
            if found.file_bytes <= budget:
                best, high = (found, self._encoded), rest - 1
            else:
                low = rest + 1
        if best is None:
            return coded(self.states[-1], budget)
        self._encoded = best[1]
        return best[0]

    def _code_layer(
        self,
        contexts: Contexts,
        state: int,
        source: Callable[[int, Contexts, Step, Models], Symbols],
        version: int,
        *,
        predicted: bool,
        passes: int | None = None,
        room: int | None = None,
    ) -> Layer | PartialLayer | None:
        """The layer; or its first ``passes``; or those that fit into ``room`` bytes, if any do.

        After fewer than all passes ``contexts`` are spent.
        """
        if predicted and self._repeats(contexts, state, source):
            coded = Layer(state, b"")
            return coded if room is None or layer_bytes(0, version) <= room else None
        steps = self._steps(state, predicted=predicted)
        encoder = self._encoder(version)
        fitting: PartialLayer | None = None

        def exchange(models: Models) -> Symbols:
            symbols = source(state, contexts, step, models)
            encoder.encode(symbols, models)
            return symbols

        for number, step in enumerate(steps, 1):
            self._run(contexts, state, step, exchange)
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
        steps = self._steps(bitstream.partial.state, predicted=bitstream.reference is not None)
        symbols = [self._symbols(contexts, step) for step in steps]
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
        predicted = bitstream.reference is not None
        for layer in bitstream.layers:
            steps = self._steps(layer.state, predicted=predicted)
            self._check_payload(bitstream, layer, steps)
        if (partial := bitstream.partial) is not None:
            steps = self._steps(partial.state, predicted=predicted)
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
        most *= 1 if bitstream.reference is None else 2  # which positions change is told too
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
