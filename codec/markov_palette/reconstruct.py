"""Latents of a batch of pictures to RGB: whole, in tiles, or only where something has changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from codec.areas.boxes import WORTH, Box, Mask
from codec.base import PLAIN, Rendering
from codec.latents import FeatureLatents
from codec.markov_palette import FAITHFUL, VIVID
from codec.markov_palette.networks import Decoder, DecoderConfig
from codec.markov_palette.palette import MarkovPalette
from codec.markov_palette.pictures.geometry import TEXTURE_RATIO
from codec.markov_palette.pictures.repaint import Planner, Trust, changed_positions
from codec.markov_palette.pictures.windows import WindowedDecoder
from codec.settings import DECODER_FILE, PALETTE_FILE, FeatureSettings
from shared.bundle import Bundle
from shared.errors import BundleError, TaskError
from shared.preprocess import without_colour

if TYPE_CHECKING:
    from codec.markov_palette.sampler import MarkovPaletteScheduler

Pixels = npt.NDArray[np.uint8]
Inputs = tuple[Tensor, Tensor, Tensor]
"""Colours float32 [1, C16, h, w] and [1, C8, 2h, 2w], and the networks' state int64 [1]."""
Estimates = tuple[Tensor, Tensor]
"""What the restorer makes of colours: of the same shapes."""

TILE_POSITIONS = 64
"""Side of a tile in positions of the semantic grid: 64 positions are 1024 pixels."""

KEPT_BYTES = 64 << 20
"""Of the last frames' estimates, a quarter of a kilobyte a position: 150 frames of 768 x 576."""

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
        self._config = decoder.config
        self._windows = WindowedDecoder(decoder.eval().requires_grad_(False).to(device))
        self._planner, self._trust, self._kept = Planner(decoder.config), Trust(), _Kept()
        self._far = self._planner.reach.pixels
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
        before: Sequence[tuple[FeatureLatents, Pixels] | None] = (),
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Pixels]:
        """Pictures uint8 [height, width, 3] RGB, cropped to each one's size.

        The latents of a batch must have equal shapes (pictures of equal padded size); their
        states may differ. Each is painted by itself, so that its picture does not depend on the
        others. Large pictures are painted in tiles, each with all around it that the networks see,
        so that tiles leave no seam.

        ``faithful``, the default decoder, gives the conditional mean. ``vivid`` samples the
        backward chain instead: texture that is plausible and merges to exactly what was received.
        Raises BundleError ``no_sampler`` when the bundle has no variances of its restorer, and
        ``unknown_decoder`` for another name.

        before: see :meth:`codec.base.Reconstructor.reconstruct`. With a picture of equal size and
        state only what changed values can reach is painted, where that is less work; ``vivid``
        draws all anew unless nothing has changed.

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
        known = before or [None] * len(batch)
        with torch.inference_mode():
            return [
                self._picture(latents, how, earlier, should_stop)
                for latents, earlier in zip(batch, known, strict=True)
            ]

    def sample_indices(self, latents: FeatureLatents, seed: int) -> dict[str, Tensor]:
        """One draw of the backward chain: nodes of every plane at state 0, int64 [1, h, w]."""
        config = self._config
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
                    colours = {name: self._stack(latents, name) for name in latents.scales}
                else:
                    colours = scheduler.colours(nodes, timestep)
                state = torch.tensor([timestep], device=self._device)
                inputs = colours["semantic"], colours["texture"], state
                semantic, texture = self._restored(inputs, None)
                variances = dict(
                    zip(("semantic", "texture"), config.variances[timestep], strict=True)
                )
                estimates = {"semantic": semantic, "texture": texture}
                nodes = scheduler.step(
                    estimates, timestep, nodes, variances, generator, received if first else None
                ).prev_sample
        return nodes

    def _picture(
        self,
        latents: FeatureLatents,
        how: Rendering,
        before: tuple[FeatureLatents, Pixels] | None,
        should_stop: Callable[[], bool] | None,
    ) -> Pixels:
        _check(should_stop)
        if before is not None and not _comparable(latents, *before):
            before = None
        if how.decoder == VIVID:
            if before is not None and latents.checksum() == before[0].checksum():
                return before[1].copy()
            inputs = self._sample(latents, how.seed)
            return self._whole(self._restored(inputs, should_stop), inputs, latents, should_stop)
        if before is not None:
            changed = changed_positions(latents, before[0])
            if not changed.any():
                return before[1].copy()
            return self._repainted(latents, changed, *before, should_stop)
        inputs = self._inputs(latents)
        estimates = self._restored(inputs, should_stop)
        self._kept.put(_name(latents), estimates)
        return self._whole(estimates, inputs, latents, should_stop)

    def _inputs(self, latents: FeatureLatents) -> Inputs:
        state = torch.tensor([_network_state(latents)], device=self._device)
        return self._stack(latents, "semantic"), self._stack(latents, "texture"), state

    def _restored(self, inputs: Inputs, should_stop: Callable[[], bool] | None) -> Estimates:
        _check(should_stop)
        semantic, texture, state = inputs
        return self._windows.restore(semantic, texture, state, Box(0, 0, *semantic.shape[2:]))

    def _whole(
        self,
        estimates: Estimates,
        inputs: Inputs,
        latents: FeatureLatents,
        should_stop: Callable[[], bool] | None,
    ) -> Pixels:
        picture = np.empty((latents.height, latents.width, 3), np.uint8)
        for box, tile in self._tiles(estimates, inputs[2], should_stop):
            self._place(tile, box, latents, picture)
        return picture

    def _tiles(
        self, estimates: Estimates, state: Tensor, should_stop: Callable[[], bool] | None
    ) -> Iterator[tuple[Box, Tensor]]:
        """Every tile of a whole picture: its positions and its values."""
        rows, columns = estimates[0].shape[2:]
        for top, bottom in _spans(rows):
            for left, right in _spans(columns):
                _check(should_stop)
                box = Box(top, left, bottom, right)
                yield box, self._windows.paint(*estimates, state, box)

    def _repainted(
        self,
        latents: FeatureLatents,
        changed: Mask,
        before: FeatureLatents,
        picture: Pixels,
        should_stop: Callable[[], bool] | None,
    ) -> Pixels:
        """The picture of ``latents`` from that of the frame before."""
        grid = Box(0, 0, *changed.shape)
        kept = self._kept.get(_name(before))
        plan = self._planner.plan(changed, estimates_kept=kept is not None)
        inputs = self._inputs(latents)
        estimates = self._updated(inputs, kept, plan.estimates, should_stop)
        self._kept.put(_name(latents), estimates)
        known = [self._trust.knows("pixels", box, grid, self._far) for box in plan.pixels]
        if plan.work > WORTH or False in known:
            return self._whole(estimates, inputs, latents, should_stop)
        made = picture.copy()
        windows: list[Tensor] = []
        for box in plan.pixels:
            _check(should_stop)
            windows.append(self._windows.paint(*estimates, inputs[2], box))
            self._place(windows[-1], box, latents, made)
        if None not in known:
            return made
        whole = torch.empty(1, 3, *(self._stride * n for n in changed.shape), device=self._device)
        for box, tile in self._tiles(estimates, inputs[2], should_stop):
            _window(whole, box.times(self._stride)).copy_(tile)
        for box, window in zip(plan.pixels, windows, strict=True):
            equal = torch.equal(window, _window(whole, box.times(self._stride)))
            self._trust.learn("pixels", box, grid, self._far, equal=equal)
        self._place(whole, grid, latents, made)
        return made

    def _updated(
        self,
        inputs: Inputs,
        kept: Estimates | None,
        boxes: Sequence[Box],
        should_stop: Callable[[], bool] | None,
    ) -> Estimates:
        """Estimates of a frame from those of the frame before, which differ in ``boxes``."""
        grid, reach = Box(0, 0, *inputs[0].shape[2:]), self._planner.reach.estimates
        known = [self._trust.knows("estimates", box, grid, reach) for box in boxes]
        if kept is None or False in known or boxes == (grid,):
            return self._restored(inputs, should_stop)
        semantic, texture = (values.clone() for values in kept)
        for box in boxes:
            _check(should_stop)
            coarse, fine = self._windows.restore(*inputs, box)
            _window(semantic, box).copy_(coarse)
            _window(texture, box.times(TEXTURE_RATIO)).copy_(fine)
        if None not in known:
            return semantic, texture
        whole = self._restored(inputs, should_stop)
        for box in boxes:
            finer = box.times(TEXTURE_RATIO)
            equal = torch.equal(_window(semantic, box), _window(whole[0], box)) and torch.equal(
                _window(texture, finer), _window(whole[1], finer)
            )
            self._trust.learn("estimates", box, grid, reach, equal=equal)
        return whole

    def _place(self, values: Tensor, box: Box, latents: FeatureLatents, picture: Pixels) -> None:
        """Values around -0.5..0.5 of the positions ``box`` into the picture."""
        place = box.times(self._stride) & Box(0, 0, latents.height, latents.width)
        if place.empty:
            return
        inner = values[0, :, : place.bottom - place.top, : place.right - place.left]
        pixels = ((inner + 0.5) * 255.0).round_().clamp_(0, 255).to(torch.uint8)
        made = pixels.permute(1, 2, 0).cpu().numpy()
        picture[place.top : place.bottom, place.left : place.right] = (
            without_colour(made) if latents.grey else made
        )

    def _sample(self, latents: FeatureLatents, seed: int) -> Inputs:
        """Colours of state 0, drawn."""
        drawn = self._open_scheduler().colours(self.sample_indices(latents, seed), 0)
        state = torch.zeros(1, dtype=torch.long, device=self._device)
        return drawn["semantic"], drawn["texture"], state

    def _open_scheduler(self) -> MarkovPaletteScheduler:
        if self._scheduler is None:
            from codec.markov_palette.sampler import MarkovPaletteScheduler

            self._scheduler = MarkovPaletteScheduler(self._config.states)
            self._scheduler.set_palette(self._palette, self._device)
        return self._scheduler

    def _grid(self, values: npt.NDArray[np.integer[Any]]) -> Tensor:
        """[h, w] -> int64 [1, h, w]."""
        return torch.from_numpy(values.astype(np.int64))[None].to(self._device)

    def _stack(self, latents: FeatureLatents, scale: str) -> Tensor:
        """A scale's features: float32 [1, C, h, w]."""
        return torch.from_numpy(np.ascontiguousarray(latents.scales[scale]))[None].to(self._device)


class _Kept:
    """Estimates of the last frames, of :data:`KEPT_BYTES` together."""

    def __init__(self) -> None:
        self._frames: OrderedDict[Hashable, Estimates] = OrderedDict()
        self._bytes = 0

    def get(self, name: Hashable) -> Estimates | None:
        """Those of a frame, if they are still kept."""
        found = self._frames.get(name)
        if found is not None:
            self._frames.move_to_end(name)
        return found

    def put(self, name: Hashable, estimates: Estimates) -> None:
        """Keep those of a frame."""
        self._drop(name)
        self._frames[name] = estimates
        self._bytes += _size(estimates)
        while self._bytes > KEPT_BYTES:
            self._drop(next(iter(self._frames)))

    def _drop(self, name: Hashable) -> None:
        dropped = self._frames.pop(name, None)
        self._bytes -= 0 if dropped is None else _size(dropped)


def _size(estimates: Estimates) -> int:
    return sum(values.nbytes for values in estimates)


def _name(latents: FeatureLatents) -> Hashable:
    """Of latents whose estimates are the same."""
    return latents.checksum(), _network_state(latents)


def _comparable(one: FeatureLatents, other: FeatureLatents, picture: Pixels) -> bool:
    """Whether ``picture``, of ``other``, can have parts of the picture of ``one``."""
    return (
        one.batch_key == other.batch_key
        and (one.width, one.height, one.grey) == (other.width, other.height, other.grey)
        and _network_state(one) == _network_state(other)
        and picture.shape == (one.height, one.width, 3)
        and picture.dtype == np.uint8
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


def _window(values: Tensor, box: Box) -> Tensor:
    """A part of [n, c, h, w], in its own cells."""
    return values[:, :, box.top : box.bottom, box.left : box.right]
