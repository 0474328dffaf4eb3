"""Latents of a batch of pictures to RGB, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from codec.base import PLAIN, Rendering
from codec.layered import FeatureLatents
from codec.markov_palette import FAITHFUL, VIVID
from codec.markov_palette.networks import Decoder, DecoderConfig
from codec.markov_palette.palette import MarkovPalette
from codec.settings import DECODER_FILE, PALETTE_FILE, FeatureSettings
from shared.bundle import Bundle
from shared.errors import BundleError, TaskError
from shared.preprocess import crop_to, without_colour

if TYPE_CHECKING:
    from codec.markov_palette.sampler import MarkovPaletteScheduler

Pixels = npt.NDArray[np.uint8]

TILE_POSITIONS = 64
"""Side of a tile in positions of the semantic grid: 64 positions are 1024 pixels."""

FINER_FROM = 0.5
"""Share of a layer's splits from which a partial layer counts as the finer state."""


class PictureReconstructor:
    """The decoder of one bundle. One worker uses it at a time."""

    def __init__(
        self,
        decoder: Decoder,
        palette: MarkovPalette,
        *,
        device: str = "cpu",
        stride: int = 16,
    ) -> None:
        """decoder: with its weights loaded. stride: pixels per semantic position."""
        self._decoder = decoder.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        self._stride = stride
        self._palette = palette
        self._scheduler: MarkovPaletteScheduler | None = None

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: str = "cpu") -> PictureReconstructor:
        """Load the bundle's decoder. Raises BundleError when it is missing or does not fit."""
        settings = FeatureSettings.of(bundle)
        try:
            config = DecoderConfig.from_dict(settings.decoder)
            decoder = Decoder(config)
            weights = load(bundle.read(DECODER_FILE))
            decoder.load_state_dict({name: value.float() for name, value in weights.items()})
        except (TypeError, RuntimeError, SafetensorError) as error:
            raise BundleError("bad_decoder", f"{DECODER_FILE}: {error}") from None
        palette = MarkovPalette.from_arrays(
            settings.planes, settings.states, bundle.read_arrays(PALETTE_FILE)
        )
        return cls(decoder, palette, device=device, stride=settings.input_multiple)

    def reconstruct(
        self,
        batch: Sequence[FeatureLatents],
        how: Rendering = PLAIN,
        *,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Pixels]:
        """Pictures uint8 [height, width, 3] RGB, cropped to each one's size.

        The latents of a batch must have equal shapes (pictures of equal padded size); their
        states may differ. Large pictures are decoded in tiles that overlap by more than the
        synthesis network can see, so that tiles leave no seam.

        ``faithful``, the default decoder, gives the conditional mean. ``vivid`` samples the
        backward chain instead: texture that is plausible and merges to exactly what was received.
        Raises BundleError ``no_sampler`` when the bundle has no variances of its restorer, and
        ``unknown_decoder`` for another name.

        ``should_stop`` is asked before the restorer and before every tile; when it says so the
        work ends with TaskError ``cancelled``.
        """
        if how.decoder not in (None, FAITHFUL, VIVID):
            raise BundleError(
                "unknown_decoder",
                f"there is no decoder {how.decoder!r}; there are {FAITHFUL} and {VIVID}",
            )
        if not batch:
            return []
        _check(should_stop)
        semantic = self._stack(batch, "semantic")
        texture = self._stack(batch, "texture")
        state = torch.tensor([_network_state(latents) for latents in batch], device=self._device)
        rows, columns = semantic.shape[2:]
        canvas = np.empty((len(batch), rows * self._stride, columns * self._stride, 3), np.uint8)
        with torch.inference_mode():
            if how.decoder == VIVID:
                semantic, texture, state = self._sample(batch, how.seed)
            _check(should_stop)
            semantic, texture = self._decoder.restorer(semantic, texture, state)
            for vertical in _spans(rows):
                for horizontal in _spans(columns):
                    _check(should_stop)
                    self._tile(semantic, texture, state, vertical, horizontal, canvas)
        cropped = [
            crop_to(picture, latents.width, latents.height)
            for picture, latents in zip(canvas, batch, strict=True)
        ]
        return [
            without_colour(picture) if latents.grey else picture
            for picture, latents in zip(cropped, batch, strict=True)
        ]

    def sample_indices(self, latents: FeatureLatents, seed: int) -> dict[str, Tensor]:
        """One draw of the backward chain: nodes of every plane at state 0, int64 [1, h, w]."""
        config = self._decoder.config
        if len(config.variances) != config.states:
            raise BundleError("no_sampler", "this bundle's decoder has no variances to sample with")
        scheduler = self._open_scheduler()
        scheduler.set_timesteps(latents.state)
        generator = torch.Generator().manual_seed(seed)
        received = {
            name: (self._grid(grid), self._grid(latents.depths[name]))
            for name, grid in latents.indices.items()
        }
        depths = self._palette.depths(latents.state)
        nodes = {name: grid >> (deep - depths[name]) for name, (grid, deep) in received.items()}
        with torch.inference_mode():
            for timestep in scheduler.timesteps.tolist():
                first = timestep == latents.state
                if first:  # a partial layer makes some of these colours finer than the state's
                    colours = {name: self._stack([latents], name) for name in latents.scales}
                else:
                    colours = scheduler.colours(nodes, timestep)
                state = torch.tensor([timestep], device=self._device)
                semantic, texture = self._decoder.restorer(
                    colours["semantic"], colours["texture"], state
                )
                variances = dict(
                    zip(("semantic", "texture"), config.variances[timestep], strict=True)
                )
                estimates = {"semantic": semantic, "texture": texture}
                nodes = scheduler.step(
                    estimates, timestep, nodes, variances, generator, received if first else None
                ).prev_sample
        return nodes

    def _sample(self, batch: Sequence[FeatureLatents], seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Colours of state 0 for every picture; its draw does not depend on its neighbours."""
        drawn = [
            self._open_scheduler().colours(self.sample_indices(latents, seed), 0)
            for latents in batch
        ]
        semantic = torch.cat([colours["semantic"] for colours in drawn])
        texture = torch.cat([colours["texture"] for colours in drawn])
        return semantic, texture, torch.zeros(len(batch), dtype=torch.long, device=self._device)

    def _open_scheduler(self) -> MarkovPaletteScheduler:
        if self._scheduler is None:
            from codec.markov_palette.sampler import MarkovPaletteScheduler

            self._scheduler = MarkovPaletteScheduler(self._decoder.config.states)
            self._scheduler.set_palette(self._palette, self._device)
        return self._scheduler

    def _tile(
        self,
        semantic: Tensor,
        texture: Tensor,
        state: Tensor,
        vertical: tuple[int, int],
        horizontal: tuple[int, int],
        canvas: npt.NDArray[np.uint8],
    ) -> None:
        (top, bottom), (left, right) = vertical, horizontal
        halo, stride = self._decoder.config.synthesis_halo, self._stride
        first_row, first_column = max(0, top - halo), max(0, left - halo)
        picture = self._decoder.synthesis(
            _window(semantic, 1, first_row, bottom + halo, first_column, right + halo),
            _window(texture, 2, first_row, bottom + halo, first_column, right + halo),
            state,
        )
        inner = _window(
            picture,
            stride,
            top - first_row,
            bottom - first_row,
            left - first_column,
            right - first_column,
        )
        pixels = ((inner + 0.5) * 255.0).round_().clamp_(0, 255).to(torch.uint8)
        canvas[:, top * stride : bottom * stride, left * stride : right * stride] = (
            pixels.permute(0, 2, 3, 1).cpu().numpy()
        )

    def _grid(self, values: npt.NDArray[np.integer[Any]]) -> Tensor:
        """[h, w] -> int64 [1, h, w]."""
        return torch.from_numpy(values.astype(np.int64))[None].to(self._device)

    def _stack(self, batch: Sequence[FeatureLatents], scale: str) -> Tensor:
        return torch.from_numpy(np.stack([latents.scales[scale] for latents in batch])).to(
            self._device
        )


def _network_state(latents: FeatureLatents) -> int:
    """The state that conditions the networks: the next finer one once most of it has come."""
    return latents.state - (latents.progress >= FINER_FROM)


def _check(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise TaskError("cancelled", "the reconstruction was stopped: nobody waits for it")


def _spans(positions: int) -> Iterator[tuple[int, int]]:
    for start in range(0, positions, TILE_POSITIONS):
        yield start, min(start + TILE_POSITIONS, positions)


def _window(grid: Tensor, ratio: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Rows and columns of ``grid`` given in positions that are ``ratio`` cells wide."""
    return grid[:, :, top * ratio : bottom * ratio, left * ratio : right * ratio]
