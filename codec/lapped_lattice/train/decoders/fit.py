"""The decoder step: a decoder of a bundle's bits, trained for one purpose.

The bundle's edge stays as it is: its own extractor and lattices give the values, at a state of each
sample's own. The decoder begins as the bundle's faithful one, and learns a weighted sum of

    errors          absolute (where the eye sees it more: on flat areas) and squared, and of means
                    of blocks of 16 pixels, so that colours stay; as they are, or ``relative`` to
                    the linear codec's at the same state, so that all rates count alike
    perception      an LPIPS-like distance, statistics of textures, features of a detector and of a
                    classifier
    an adversary    from ``adversarial_from`` on: a discriminator of patches

The inverse transform itself stays the faithful decoder's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec.base import FloatArray, Pixels
from codec.kit import checkpoint
from codec.kit.crops import PhotoCache, ahead, draw
from codec.kit.losses.frozen import flatness
from codec.kit.losses.perception import Perception
from codec.lapped_lattice.coding import LappedCodec
from codec.lapped_lattice.networks import STRIDE, LappedDecoder
from codec.lapped_lattice.reconstruct import read_decoder
from codec.lapped_lattice.train.decoders.adversary import Discriminator, hinge
from codec.lapped_lattice.train.fit import Progress, hold_out
from codec.onnx import FeatureExtractor
from codec.settings import DECODER_FILE, FeatureSettings
from shared.bundle import Bundle

Batch = tuple[Tensor, Tensor, Tensor]
"""Pictures [n, 3, h, w], the values that decoding gives [n, C, h / 16, w / 16], their states."""


@dataclass(frozen=True)
class DecoderSettings:
    """Steps are optimiser steps, sizes pixels. Weights are of the parts of the loss; see above for
    ``relative``.

    adversarial_from: share of the steps after which the adversary joins. held_out: photos that are
    not trained on.
    """

    crop: int = 192
    batch: int = 4
    steps: int = 12000
    learning_rate: float = 6e-4
    absolute_weight: float = 1.0
    flat_weight: float = 0.0
    squared_weight: float = 4.0
    colour_weight: float = 0.0
    perceptual_weight: float = 0.0
    texture_weight: float = 0.0
    detector_weight: float = 0.0
    classifier_weight: float = 0.0
    adversarial_weight: float = 0.0
    adversarial_from: float = 0.5
    adversary_rate: float = 4e-4
    relative: bool = False
    warmup: int = 100
    ema: float = 0.998
    held_out: int = 24
    checkpoint_every: int = 200
    threads: int = 1
    seed: int = 1

    @property
    def perception_weights(self) -> dict[str, float]:
        """As :class:`~codec.kit.losses.perception.Perception` takes them."""
        return {
            "perceptual": self.perceptual_weight,
            "textures": self.texture_weight,
            "detector": self.detector_weight,
            "classifier": self.classifier_weight,
        }

    @property
    def perceives(self) -> bool:
        """Whether networks judge what is made."""
        return any(weight > 0 for weight in self.perception_weights.values())


class DecodedCrops:
    """Crops of photos as a bundle's edge tells them, each at a state drawn by chance."""

    def __init__(self, bundle: Bundle, cache: PhotoCache, settings: DecoderSettings) -> None:
        """cache: of which the photos to hold out are never drawn."""
        self._extract = FeatureExtractor(bundle, precision="fp32")
        self._palette = LappedCodec(bundle).chains[0].palette
        self._scale = FeatureSettings.of(bundle).scales[0].name
        self._cache, self._settings = cache, settings
        hold_out(cache, settings.held_out)

    def batch(self, rng: np.random.Generator) -> Batch:
        """One batch."""
        side = self._settings.crop
        pictures, values, states = [], [], []
        for number, crop in draw(self._cache, side, self._settings.batch, rng):
            pixels = np.ascontiguousarray(crop.cut(self._cache[number], side))
            state = int(rng.choice([row.state for row in self._palette.states]))
            pictures.append(pixels)
            values.append(self._values(pixels, state))
            states.append(state)
        return (
            torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255 - 0.5,
            torch.from_numpy(np.stack(values)),
            torch.tensor(states),
        )

    def _values(self, pixels: Pixels, state: int) -> FloatArray:
        palette = self._palette
        indices = palette.quantise(self._extract(pixels), state)
        return palette.decode(indices, palette.depths_of(indices, state))[self._scale]


class DecoderFit:
    """One run in one folder; started again it goes on from its last checkpoint."""

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        settings: DecoderSettings,
        sizes: Mapping[str, int],
        *,
        cache: Path,
        run: Path,
        perception: Perception | None,
    ) -> None:
        """name: of the decoder. sizes: what it has otherwise than the faithful one, by names of
        :class:`~codec.lapped_lattice.networks.DecoderConfig`. cache: folder of the photos step.
        run: for checkpoint and log. perception: None where the settings weigh none. Raises
        BundleError for a bundle without a decoder."""
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.crops = DecodedCrops(bundle, PhotoCache(cache), settings)
        faithful = read_decoder(bundle, DECODER_FILE, FeatureSettings.of(bundle).decoder)
        self.decoder = LappedDecoder(replace(faithful.config, **sizes))
        begin_with(self.decoder, faithful)
        self.adversary, self.perception = Discriminator(), perception
        self.optimiser = torch.optim.Adam(self.decoder.networks(), betas=(0.9, 0.98))
        self.judge = torch.optim.Adam(
            self.adversary.parameters(), lr=settings.adversary_rate, betas=(0.5, 0.9)
        )
        self.path, self.step = checkpoint_of(run, name), 0
        self._modules: dict[str, nn.Module] = {
            "decoder": self.decoder, "adversary": self.adversary,
        }  # fmt: skip
        self.average = {name: value.clone() for name, value in self._weights().items()}
        if self.path.exists():
            checkpoint.load(self.path, self._modules, self.average, self.optimiser)
            step = checkpoint.facts(self.path)["step"]
            assert isinstance(step, int)
            self.step = step

    def train(self, progress: Progress, *, max_seconds: float = math.inf) -> bool:
        """Run until done or out of time; returns whether all steps are done."""
        settings, started = self.settings, time.monotonic()
        rng = np.random.default_rng([settings.seed, self.step])
        source = ahead(lambda: self.crops.batch(rng))
        while self.step < settings.steps and time.monotonic() - started <= max_seconds:
            figures = self._one_step(*next(source))
            self.step += 1
            if self.step % 20 == 0:
                progress(self.step, settings.steps, figures)
                self._log({"seconds": time.monotonic() - started, **figures})
            if self.step % settings.checkpoint_every == 0:
                self.save()
        self.save()
        return self.step >= settings.steps

    def save(self) -> None:
        """Write the checkpoint."""
        facts: dict[str, object] = {
            "step": self.step, "decoder": self.decoder.config.to_dict(), **asdict(self.settings),
        }  # fmt: skip
        checkpoint.save(self.path, self._modules, self.average, self.optimiser, facts)

    def averaged(self) -> LappedDecoder:
        """The decoder with the moving average of its weights."""
        with torch.no_grad():
            for name, value in self._weights().items():
                value.copy_(self.average[name])
        return self.decoder

    def _one_step(self, picture: Tensor, values: Tensor, state: Tensor) -> dict[str, float]:
        settings = self.settings
        rate = _rate(self.step, settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        late = self.step >= settings.adversarial_from * settings.steps
        adversarial = late and settings.adversarial_weight > 0
        noise = torch.randn_like(values) if self.decoder.config.sampled else None
        made = self.decoder(values, state, noise=noise)
        with torch.no_grad():
            told = self.decoder.linear(values)
        loss, figures = self._errors(made, picture, told)
        if self.perception is not None:
            distances: dict[str, float]
            seen, distances = self.perception(made, picture, self.step)
            loss, figures = loss + seen, figures | distances
        if adversarial:
            for parameter in self.adversary.parameters():
                parameter.requires_grad_(False)
            loss = loss - settings.adversarial_weight * self.adversary(made, told).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.decoder.networks(), 1.0)
        if torch.isfinite(norm):
            self.optimiser.step()
            self._follow()
        if adversarial:
            figures["adversary"] = self._judge(picture, made.detach(), told)
        return figures | {"loss": float(loss.detach())}

    def _errors(
        self, made: Tensor, picture: Tensor, told: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        settings = self.settings
        error = made - picture
        squared = error.square().mean((1, 2, 3))
        linear = (told - picture).square().mean((1, 2, 3)).clamp_min(1e-6)
        unit = linear if settings.relative else torch.ones_like(linear)
        visible = error.abs()
        if settings.flat_weight:
            visible = visible * (1 + settings.flat_weight * flatness(picture))
        colour = functional.avg_pool2d(error, STRIDE).abs().mean((1, 2, 3))
        absolute = settings.absolute_weight * visible.mean((1, 2, 3))
        absolute = absolute + settings.colour_weight * colour
        loss = (settings.squared_weight * squared / unit + absolute / unit.sqrt()).mean()
        with torch.no_grad():
            gain = 10 * (linear / squared.clamp_min(1e-9)).log10().mean()
        return loss, {"gain_db": float(gain), "colour": float(colour.detach().mean())}

    def _judge(self, picture: Tensor, made: Tensor, told: Tensor) -> float:
        for parameter in self.adversary.parameters():
            parameter.requires_grad_(True)
        loss = hinge(self.adversary(picture, told), self.adversary(made, told))
        self.judge.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.judge.step()
        return float(loss.detach())

    @torch.no_grad()
    def _follow(self) -> None:
        share = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for name, value in self._weights().items():
            self.average[name].lerp_(value, 1 - share)

    def _weights(self) -> dict[str, Tensor]:
        return {f"decoder/{name}": p.detach() for name, p in self.decoder.named_parameters()}

    def _log(self, figures: Mapping[str, float]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, **figures}) + "\n")


def checkpoint_of(run: Path, name: str) -> Path:
    """Where a run keeps a decoder's checkpoint; its log is beside it."""
    return run / f"decoder-{name}.safetensors"


@torch.no_grad()
def begin_with(decoder: LappedDecoder, known: LappedDecoder) -> None:
    """Give a decoder what another one of the same channels has learned: blocks that only the first
    has add nothing, so that where no width differs it makes the same pictures. The inverse
    transform does not learn any more."""
    there = known.state_dict()
    for name, value in decoder.state_dict().items():
        if name in there and there[name].shape == value.shape:
            value.copy_(there[name])
        elif name.endswith(".second.weight"):
            value.zero_()
    decoder.synthesis.requires_grad_(False)


def _rate(step: int, settings: DecoderSettings) -> float:
    """The learning rate: up over ``warmup`` steps, then down by half a cosine."""
    share = step / max(1, settings.steps)
    warmup = max(1, min(settings.warmup, settings.steps // 4))
    rate = settings.learning_rate * min(1.0, (step + 1) / warmup)
    return rate * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share)))
