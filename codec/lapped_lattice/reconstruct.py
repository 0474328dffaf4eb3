"""Coefficients of a batch of pictures to RGB, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from codec.areas.boxes import Box
from codec.base import PLAIN, Pixels, Rendering
from codec.lapped_lattice import FAITHFUL
from codec.lapped_lattice.networks import SHARED, STRIDE, DecoderConfig, Edges, LappedDecoder
from codec.lapped_lattice.repaint import repainted
from codec.latents import FeatureLatents
from codec.settings import DECODER_FILE, FeatureSettings, decoder_file
from shared.bundle import Bundle
from shared.errors import BundleError, TaskError
from shared.preprocess import without_colour

TILE_POSITIONS = 64
"""Side of a tile: 1024 pixels. Each sees all around it that its pixels depend on."""
FINER_FROM = 0.5
"""Share of a layer's passes from which a partial layer counts as the finer state."""


class LappedReconstructor:
    """The decoders of one bundle. One worker uses it at a time."""

    def __init__(
        self, decoders: Mapping[str, LappedDecoder], scale: str, *, device: str = "cpu"
    ) -> None:
        """decoders: by name, the first one is the default. scale: the name of the coefficients."""
        self._decoders = {
            name: decoder.eval().requires_grad_(False).to(device)
            for name, decoder in decoders.items()
        }
        self._device, self._scale = torch.device(device), scale

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: str = "cpu") -> LappedReconstructor:
        """Load the bundle's decoders. Raises BundleError when one is missing or does not fit."""
        settings = FeatureSettings.of(bundle)
        decoders = {FAITHFUL: read_decoder(bundle, DECODER_FILE, settings.decoder)}
        first = decoders[FAITHFUL]
        for name, values in (settings.other_decoders or {}).items():
            decoders[name] = read_decoder(bundle, decoder_file(name), values, first)
        return cls(decoders, settings.scales[0].name, device=device)

    def reconstruct(
        self,
        batch: Sequence[FeatureLatents],
        how: Rendering = PLAIN,
        *,
        before: Sequence[tuple[FeatureLatents, Pixels] | None] = (),
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Pixels]:
        """See :meth:`codec.base.Reconstructor.reconstruct`. Where only some values are others than
        those of the frame before, only what they reach is painted anew: as in a whole picture, but
        for rounding. The seed is of what a sampled decoder draws, at every place of the picture; of
        others it changes nothing."""
        decoder = self._decoders.get(how.decoder or next(iter(self._decoders)))
        if decoder is None:
            there = " and ".join(self._decoders)
            raise BundleError(
                "unknown_decoder", f"there is no decoder {how.decoder!r}; there is {there}"
            )
        known = before or [None] * len(batch)
        with torch.inference_mode():
            # A core takes as long for four pictures at once as for one after the other.
            if self._device.type != "cpu" and not any(known):
                return self.together(decoder, batch, how.seed, should_stop)
            return [
                self._picture(decoder, latents, how.seed, earlier, should_stop)
                for latents, earlier in zip(batch, known, strict=True)
            ]

    def together(
        self,
        decoder: LappedDecoder,
        batch: Sequence[FeatureLatents],
        seed: int,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Pixels]:
        """Pictures of as many positions, tile by tile of all of them at once."""
        pictures = [np.empty((one.height, one.width, 3), np.uint8) for one in batch]
        whole = Box(0, 0, *batch[0].scales[self._scale].shape[1:])
        self._paint(decoder, batch, seed, [whole], pictures, should_stop)
        return pictures

    def _picture(
        self,
        decoder: LappedDecoder,
        latents: FeatureLatents,
        seed: int,
        before: tuple[FeatureLatents, Pixels] | None,
        should_stop: Callable[[], bool] | None,
    ) -> Pixels:
        """One picture, over the one before where that is less work."""
        if before is not None and _alike(latents, *before):
            shown, earlier = (one.scales[self._scale] for one in (latents, before[0]))
            found = repainted((shown != earlier).any(0), decoder.config.reach)
            if found is not None:
                picture = before[1].copy()
                self._paint(decoder, [latents], seed, found, [picture], should_stop)
                return picture
        return self.together(decoder, [latents], seed, should_stop)[0]

    def _paint(
        self,
        decoder: LappedDecoder,
        batch: Sequence[FeatureLatents],
        seed: int,
        parts: Sequence[Box],
        pictures: Sequence[Pixels],
        should_stop: Callable[[], bool] | None,
    ) -> None:
        """Paint parts of pictures. Raises TaskError ``cancelled``."""
        shown = np.stack([latents.scales[self._scale] for latents in batch])
        values = torch.from_numpy(shown).to(self._device)
        state = torch.tensor([_network_state(latents) for latents in batch], device=self._device)
        noise = _drawn(values[:1], seed).expand_as(values) if decoder.config.sampled else None
        for box in _tiles(parts):
            if should_stop is not None and should_stop():
                raise TaskError("cancelled", "the reconstruction was stopped: nobody waits")
            tiles = _tile(decoder, values, state, noise, box)
            for picture, tile, latents in zip(pictures, tiles, batch, strict=True):
                _put(picture, box, tile, grey=latents.grey)


def _put(picture: Pixels, box: Box, tile: Pixels, *, grey: bool) -> None:
    """A tile into its place in a picture, which may end before it."""
    place = picture[box.top * STRIDE : box.bottom * STRIDE, box.left * STRIDE : box.right * STRIDE]
    tile = tile[: place.shape[0], : place.shape[1]]
    place[...] = without_colour(tile) if grey else tile


def _drawn(values: Tensor, seed: int) -> Tensor:
    """What a seed draws for a whole picture's values: the same wherever they are computed."""
    chance = torch.Generator().manual_seed(seed % 2**63)
    return torch.randn(values.shape, generator=chance).to(values.device)


def _tile(
    decoder: LappedDecoder, values: Tensor, state: Tensor, noise: Tensor | None, box: Box
) -> Pixels:
    """The pixels of a box: uint8 [n, 16 h, 16 w, 3]."""
    reach = decoder.config.reach
    grid = Box(0, 0, *values.shape[2:])
    wide = box.grown(reach, grid)
    seen = values[:, :, wide.top : wide.bottom, wide.left : wide.right]
    edges = Edges(*(one == other for one, other in zip(wide, grid, strict=True)))
    drawn = None if noise is None else noise[:, :, wide.top : wide.bottom, wide.left : wide.right]
    made = decoder(seen, state, edges, drawn)
    inner = made[
        ...,
        (box.top - wide.top) * STRIDE : (box.bottom - wide.top) * STRIDE,
        (box.left - wide.left) * STRIDE : (box.right - wide.left) * STRIDE,
    ]
    pixels = ((inner + 0.5) * 255).round_().clamp_(0, 255).to(torch.uint8)
    return np.asarray(pixels.permute(0, 2, 3, 1).cpu().numpy(), np.uint8)


def read_decoder(
    bundle: Bundle, file: str, values: Mapping[str, Any], first: LappedDecoder | None = None
) -> LappedDecoder:
    """One of a bundle's decoders. values: its settings. first: has what the file leaves out of
    :data:`~codec.lapped_lattice.networks.SHARED`. Raises BundleError ``bad_decoder``, and what
    :meth:`shared.bundle.Bundle.read` raises."""
    try:
        decoder = LappedDecoder(DecoderConfig.from_dict(values))
        known = {} if first is None else first.state_dict()
        weights = {name: known[name] for name in SHARED if name in known}
        weights |= load(bundle.read(file))
        kinds = {name: value.dtype for name, value in decoder.state_dict().items()}
        decoder.load_state_dict({n: v.to(kinds.get(n, v.dtype)) for n, v in weights.items()})
    except (TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError("bad_decoder", f"{file}: {error}") from None
    return decoder


def _network_state(latents: FeatureLatents) -> int:
    """The state that conditions the networks: the next finer one once most of it has come."""
    return latents.state - (latents.progress >= FINER_FROM)


def _alike(one: FeatureLatents, other: FeatureLatents, picture: Pixels) -> bool:
    """Whether ``picture``, of ``other``, is that of ``one`` where the values are the same."""
    return (
        (one.grey, _network_state(one)) == (other.grey, _network_state(other))
        and (one.width, one.height) == (other.width, other.height)
        and picture.shape == (one.height, one.width, 3)
        and picture.dtype == np.uint8
    )


def _tiles(parts: Sequence[Box]) -> Iterator[Box]:
    """Boxes cut into tiles."""
    for part in parts:
        for top in range(part.top, part.bottom, TILE_POSITIONS):
            for left in range(part.left, part.right, TILE_POSITIONS):
                yield part & Box(top, left, top + TILE_POSITIONS, left + TILE_POSITIONS)
