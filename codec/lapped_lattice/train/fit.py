"""The fit step: analysis, decoder and a model of bits together, then the decoder alone.

Every sample of a batch has a state of its own, so that one model learns all of them. A sample's
loss is its squared error over that of the linear codec at the same state, so that all rates count
alike; where the analysis learns too, bits are added at the price that they have at the state: the
squared error that a bit saves from there to the next.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from codec.kit import checkpoint
from codec.kit.crops import PhotoCache, ahead, draw, pictures_of
from codec.lapped_lattice.networks import DecoderConfig, LappedDecoder
from codec.lapped_lattice.train.basis import TO_YCBCR, Basis
from codec.lapped_lattice.train.networks import Analysis, Layout
from codec.lapped_lattice.train.rate import RateModel

Progress = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class FitSettings:
    """Steps are optimiser steps, sizes pixels. joint_steps: those in which the analysis learns.
    analysis_share, network_share: of the learning rate, for the transform and its inverse, and for
    the network that adds to it on the edge. absolute_weight: of the mean absolute error, beside the
    squared one. bit_worth: of each state, the squared error (of values of 255) of a pixel that a
    bit is worth.
    dead, lean: see :mod:`codec.lapped_lattice.lattice`. held_out: photos to measure on, evenly
    over the cache.
    """

    crop: int = 192
    batch: int = 4
    joint_steps: int = 0
    decoder_steps: int = 4000
    learning_rate: float = 8e-4
    analysis_share: float = 0.02
    network_share: float = 0.2
    absolute_weight: float = 0.1
    bit_worth: tuple[float, ...] = ()
    dead: float = 0.15
    lean: float = 0.35
    warmup: int = 50
    ema: float = 0.995
    held_out: int = 24
    measure_every: int = 400
    checkpoint_every: int = 100
    threads: int = 1
    bf16: bool = False
    seed: int = 1


class Fit:
    """One run in one folder; started again it goes on from its last checkpoint."""

    def __init__(
        self,
        settings: FitSettings,
        analysis: Analysis,
        decoder: DecoderConfig,
        layout: Layout,
        basis: Basis,
        *,
        cache: Path,
        run: Path,
    ) -> None:
        """analysis: untrained. basis: the linear codec to start from. cache: folder of the photos
        step. run: for checkpoint and log."""
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        self.settings, self.layout, self.run = settings, layout, run
        self.analysis, self.decoder = analysis, LappedDecoder(decoder)
        self.rate = RateModel(decoder.channels)
        start_linear(self.analysis, self.decoder, basis, layout)
        self._start = (deepcopy(self.analysis), deepcopy(self.decoder))
        self.cache = PhotoCache(cache)
        self._held = hold_out(self.cache, settings.held_out)
        self.path, self.step = run / checkpoint.CHECKPOINT, 0
        self._worth = torch.tensor(settings.bit_worth) / 255**2
        self._modules: dict[str, nn.Module] = {
            "analysis": self.analysis, "decoder": self.decoder, "rate": self.rate,
        }  # fmt: skip
        self.optimiser = torch.optim.Adam(
            [
                {"params": list(parameters), "share": share}
                for parameters, share in (
                    (self.analysis.transforms.parameters(), settings.analysis_share),
                    (self.analysis.networks(), settings.network_share),
                    ([self.decoder.synthesis], settings.analysis_share),
                    (self.decoder.networks(), 1.0),
                    (self.rate.parameters(), 1.0),
                )
            ],
            betas=(0.9, 0.98),
        )
        self.average = self._weights()
        if self.path.exists():
            checkpoint.load(self.path, self._modules, self.average, self.optimiser)
            step = checkpoint.facts(self.path)["step"]
            assert isinstance(step, int)
            self.step = step

    @property
    def total_steps(self) -> int:
        """Steps of both stages."""
        return self.settings.joint_steps + self.settings.decoder_steps

    def train(self, progress: Progress, *, max_seconds: float = math.inf) -> bool:
        """Run until done or out of time; returns whether all steps are done."""
        settings, started = self.settings, time.monotonic()
        rng = np.random.default_rng([settings.seed, self.step])

        def batch() -> tuple[Tensor, Tensor]:
            pictures = pictures_of(self.cache, draw(self.cache, settings.crop, settings.batch, rng),
                                   settings.crop)  # fmt: skip
            states = torch.from_numpy(rng.integers(0, len(self.layout.times), settings.batch))
            return pictures, states

        source = ahead(batch)
        while self.step < self.total_steps and time.monotonic() - started <= max_seconds:
            figures = self._one_step(*next(source))
            self.step += 1
            if self.step % 20 == 0:
                progress(self.step, self.total_steps, figures)
                self._log({"seconds": time.monotonic() - started, **figures})
            if self.step % settings.checkpoint_every == 0:
                self.save()
            if self.step % settings.measure_every == 0:
                self._log({f"gain_{k}": v for k, v in enumerate(self.gains())})
        self.save()
        return self.step >= self.total_steps

    def save(self) -> None:
        """Write the checkpoint."""
        facts: dict[str, object] = {"step": self.step, "decoder": self.decoder.config.to_dict()}
        checkpoint.save(self.path, self._modules, self.average, self.optimiser, facts)

    def averaged(self) -> None:
        """Put the moving average of the weights in their place, to use it."""
        with torch.no_grad():
            for key, value in self._weights().items():
                value.copy_(self.average[key])

    @torch.no_grad()
    def gains(self) -> list[float]:
        """Of every state, decibels by which the decoder is better than the linear codec that
        training started from, on the held-out photos: mean over photos, with the averaged
        weights."""
        kept = {key: value.clone() for key, value in self._weights().items()}
        self.averaged()
        side, total = self.settings.crop, np.zeros(len(self.layout.times))
        for number in self._held:
            photo = self.cache[int(number)]
            top, left = ((n - side) // 2 for n in photo.shape[:2])
            crop = np.array(photo[top : top + side, left : left + side])
            picture = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255 - 0.5
            linear, start = self._start
            features, before = self.analysis(picture), linear(picture)
            for row in range(len(total)):
                state = torch.tensor([row])
                made = self.decoder(self._rounded(features, state), state)
                least = start.linear(self._rounded(before, state))
                errors = [
                    float((one.clamp(-0.5, 0.5) - picture).square().mean()) for one in (made, least)
                ]
                total[row] += 10 * math.log10(errors[1] / errors[0])
        for key, value in self._weights().items():
            value.copy_(kept[key])
        return [round(float(value), 3) for value in total / len(self._held)]

    def _one_step(self, picture: Tensor, state: Tensor) -> dict[str, float]:
        settings = self.settings
        joint = self.step < settings.joint_steps
        self._schedule()
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            with torch.set_grad_enabled(joint):
                features = self.analysis(picture)
            known = self._rounded(features, state)
            made = self.decoder(known, state).float()
        with torch.no_grad():
            linear = (self.decoder.linear(known) - picture).square().mean((1, 2, 3))
        away = made - picture
        squared = away.square().mean((1, 2, 3))
        unit = linear.clamp_min(1e-6)
        loss = (squared / unit).mean()
        loss = loss + settings.absolute_weight * (away.abs().mean((1, 2, 3)) / unit.sqrt()).mean()
        figures = {"gain_db": float(10 * (unit / squared.detach()).log10().mean())}
        if joint:
            bits = self.rate(features, state, self.layout)
            pixels = picture.shape[2] * picture.shape[3]
            loss = loss + (bits / pixels * self._worth[state] / unit).mean()
            figures["bits_per_pixel"] = float(bits.detach().mean() / pixels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimiser.step()
        self._settle(joint=joint)
        return figures | {"loss": float(loss.detach())}

    def _rounded(self, features: Tensor, state: Tensor) -> Tensor:
        return self.layout.round(features, state, self.settings.dead, self.settings.lean)

    def _schedule(self) -> None:
        settings = self.settings
        share = self.step / max(1, self.total_steps)
        rate = settings.learning_rate * min(1.0, (self.step + 1) / settings.warmup)
        rate *= 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]

    @torch.no_grad()
    def _settle(self, *, joint: bool) -> None:
        """Kernels keep their parity; the average follows."""
        if joint:
            parity = self.decoder.parity
            self.decoder.synthesis.copy_(of_parity(self.decoder.synthesis, parity))
            sorted_parity = parity[torch.argsort(self.analysis.order)]
            counts = [len(kernels) for kernels in self.analysis.transforms]
            for kernels, here in zip(
                self.analysis.transforms, torch.split(sorted_parity, counts), strict=True
            ):
                kernels.copy_(of_parity(kernels, here))
        share = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for key, value in self._weights().items():
            self.average[key].lerp_(value, 1 - share)

    def _weights(self) -> dict[str, Tensor]:
        """Of analysis and decoder: views of what they learn. A copy, at first, is the average."""
        found = {
            f"{name}/{key}": value.detach()
            for name in ("analysis", "decoder")
            for key, value in self._modules[name].named_parameters()
        }
        return found if hasattr(self, "average") else {k: v.clone() for k, v in found.items()}

    def _log(self, figures: Mapping[str, float]) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        with (self.run / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, **figures}) + "\n")


def start_linear(
    analysis: Analysis, decoder: LappedDecoder, basis: Basis, layout: Layout | None = None
) -> None:
    """Make both the linear codec of a basis. layout: by which the decoder knows how far off values
    are; None: by as much as they vary."""
    colours = torch.tensor([one.colour for one in basis.channels])
    forward = torch.from_numpy(basis.analysis)[:, None]
    by_colour = [torch.nonzero(colours == colour)[:, 0] for colour in range(3)]
    with torch.no_grad():
        for kernels, rows in zip(analysis.transforms, by_colour, strict=True):
            kernels.copy_(forward[rows])
        analysis.order.copy_(torch.argsort(torch.cat(by_colour)))
        analysis.mix.copy_(torch.from_numpy(TO_YCBCR))
        decoder.synthesis.copy_(torch.from_numpy(basis.synthesis)[:, None])
        decoder.colours.copy_(colours)
        decoder.mix.copy_(torch.from_numpy(np.linalg.inv(TO_YCBCR)))
        decoder.parity.copy_(torch.from_numpy(basis.parity))
        for module in (analysis, decoder):
            module.deviations.copy_(torch.from_numpy(basis.deviations))
        decoder.doubts.copy_(decoder.deviations)
        if layout is not None:
            known = torch.minimum(layout.steps, decoder.doubts)
            decoder.doubts.copy_(torch.where(layout.told, known, decoder.doubts))


def of_parity(kernel: Tensor, parity: Tensor) -> Tensor:
    """The part of kernels [C, 1, k, k] that is even or odd down and across as ``parity`` [C, 2]
    says: what keeps mirrored edges exact."""
    down, across = parity[:, 0, None, None, None], parity[:, 1, None, None, None]
    tall = (kernel + down * kernel.flip(2)) / 2
    return (tall + across * tall.flip(3)) / 2


def held_out(cache: PhotoCache, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Numbers of the photos to measure on: ``count``, evenly over the cache."""
    if count >= len(cache):
        raise ValueError(f"{len(cache)} photos leave none to train on beside {count}")
    return np.linspace(0, len(cache) - 1, count).astype(np.int64)


def hold_out(cache: PhotoCache, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """:func:`held_out`, which are not drawn from the cache any more."""
    numbers = held_out(cache, count)
    cache.chances[numbers] = 0
    cache.chances /= cache.chances.sum()
    return numbers
