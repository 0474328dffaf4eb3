"""The fit step: extractor, palettes and decoder together, then the decoder alone.

start          the best linear codec (see :mod:`codec.markov_palette.train.start`)
joint stage    a random state for every sample, straight-through colours, trees rebuilt often;
               the perceptual distance joins on half of each batch a little later
decoder stage  extractor and trees frozen (trees fitted on a large sample), decoder refined

It runs alone on a machine that has only torch, numpy, Pillow and safetensors:

    featherwire-train plan -o plan.json        # where the recipe can be read
    python -m codec.markov_palette.train.fit plan.json --run RUN --device cuda    # there

RUN/cache is what the photos step made. Bring RUN/checkpoint.safetensors and RUN/log.jsonl back,
and go on with palette, tables and export.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from codec.kit import checkpoint
from codec.kit.crops import PhotoCache, batches
from codec.kit.losses.frozen import (
    PerceptualDistance,
    flatness,
    load_losses,
    shifted,
    whose_turn,
)
from codec.kit.losses.textures import TextureLabels, labelled_batches, texture_contrast
from codec.kit.optimiser import Muon
from codec.markov_palette.networks import Decoder, DecoderConfig
from codec.markov_palette.train.networks import (
    SEMANTIC_STRIDE,
    Extractor,
    ExtractorConfig,
    PlaneLayout,
    TrainingPalette,
)
from codec.markov_palette.train.start import initialise_linear, warm_start

Batch = tuple[Tensor, Tensor | None]
"""Pictures [n, 3, H, W], and the texture labels of their semantic positions if there are any."""
Progress = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class FitConfig:
    """Everything the loop needs. Steps are optimiser steps; sizes are pixels.

    For ``float_steps`` nothing is quantised. Until ``settle_steps`` the trees are rebuilt every
    ``rebuild_every_early`` steps and coarser states join one by one: an extractor that changes
    fast outruns its palettes, and its latents run into their bound.

    ``start_from`` is a checkpoint to take weights from instead of the best linear codec.
    """

    planes: tuple[PlaneLayout, ...]
    states: tuple[tuple[int, ...], ...]
    crop: int = 256
    batch: int = 8
    joint_steps: int = 6000
    decoder_steps: int = 3000
    perceptual_from: float = 0.1
    learning_rate: float = 1e-3
    decoder_learning_rate: float = 5e-4
    warmup_steps: int = 100
    squared_weight: float = 2.0
    flat_weight: float = 0.0
    perceptual_weight: float = 0.6
    detector_weight: float = 0.0
    classifier_weight: float = 0.0
    features_from: float = 0.1
    texture_weight: float = 0.0
    latent_weight: float = 0.2
    commitment_weight: float = 1.0
    linear_samples: int = 384
    start_from: str = ""
    float_steps: int = 20
    settle_steps: int = 400
    rebuild_every: int = 60
    rebuild_every_early: int = 10
    tree_samples: int = 16384
    ema: float = 0.998
    seed: int = 1
    checkpoint_every: int = 500
    threads: int = 2

    @property
    def feature_weights(self) -> dict[str, float]:
        """Weights of the feature-matching losses, by the losses' names."""
        return {"detector": self.detector_weight, "classifier": self.classifier_weight}


class Fit:
    """One run in one folder; start it again and it goes on from its last checkpoint."""

    def __init__(
        self,
        config: FitConfig,
        extractor: ExtractorConfig,
        decoder: DecoderConfig,
        *,
        cache: Path,
        run: Path,
        device: str = "cpu",
        bf16: bool = True,
        perceptual: nn.Module | None = None,
        features: Mapping[str, nn.Module] | None = None,
        labels: TextureLabels | None = None,
    ) -> None:
        """cache: folder of the photos step. run: folder for checkpoint and log.

        perceptual: the LPIPS-like distance. features: feature-matching distances by name, as
        ``config.feature_weights`` has them. labels: textures of the cache's photos, for the
        contrastive loss.
        """
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.config, self.device, self.bf16 = config, torch.device(device), bf16
        self.extractor = Extractor(extractor).to(self.device)
        self.decoder = Decoder(decoder).to(self.device)
        self.palette = TrainingPalette(config.planes, config.states).to(self.device)
        self.perceptual = perceptual.to(self.device) if perceptual is not None else None
        weights = config.feature_weights
        self.features = {
            name: module.to(self.device)
            for name, module in sorted((features or {}).items())
            if weights[name] > 0
        }
        self.labels = labels if config.texture_weight > 0 else None
        self.cache, self.run = cache, run
        self.path = run / checkpoint.CHECKPOINT
        self.step = 0
        self._recent: dict[str, list[Tensor]] = {plane.name: [] for plane in config.planes}
        self.average = self._weights()
        self.optimiser = self._new_optimiser(decoder_only=False)
        if self.path.exists():
            self._resume()

    @property
    def total_steps(self) -> int:
        """Steps of both stages."""
        return self.config.joint_steps + self.config.decoder_steps

    def train(self, progress: Progress, *, max_seconds: float = math.inf) -> bool:
        """Run until done or out of time; returns whether all steps are done."""
        started = time.monotonic()
        source = self._source()
        if self.step == 0:
            self._start(source)
        while self.step < self.total_steps:
            if self.step == self.config.joint_steps:
                self._freeze(source)
            figures = self._one_step(*next(source))
            self.step += 1
            if self.step % 20 == 0:
                progress(self.step, self.total_steps, figures)
                self._log(figures)
            if self.step % self.config.checkpoint_every == 0:
                self.save()
            if time.monotonic() - started > max_seconds:
                break
        self.save()
        return self.step >= self.total_steps

    def save(self) -> None:
        """Write the checkpoint."""
        checkpoint.save(
            self.path,
            {**self._trained(), "palette": self.palette},
            self.average,
            self.optimiser,
            {
                "step": self.step,
                "extractor": self.extractor.config.to_dict(),
                "decoder": self.decoder.config.to_dict(),
            },
        )

    def _source(self) -> Iterator[Batch]:
        cache, config = PhotoCache(self.cache), self.config
        seed = config.seed + self.step
        if self.labels is not None:
            return labelled_batches(
                cache, self.labels, config.crop, SEMANTIC_STRIDE, config.batch, seed
            )
        return ((batch, None) for batch in batches(cache, config.crop, config.batch, seed))

    def _one_step(self, picture: Tensor, labels: Tensor | None) -> dict[str, float]:
        config = self.config
        picture = picture.to(self.device, non_blocking=True)
        picture = picture.contiguous(memory_format=torch.channels_last)
        decoder_only = self.step >= config.joint_steps
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        state = torch.randint(self._states_now(), (len(picture),), device=self.device)
        with torch.set_grad_enabled(not decoder_only):
            scales = self._scales(picture)
        if bool(self.palette.ready):
            colours, commitment = self.palette(scales, state)
        else:
            colours, commitment = scales, picture.new_zeros(())
        with self._autocast():
            restored, estimates = self.decoder(*colours, state)
        restored = restored.float()
        error = restored - picture
        visible = error.abs()
        if config.flat_weight > 0:
            visible = visible * (1 + config.flat_weight * flatness(picture))
        loss = visible.mean() + config.squared_weight * error.square().mean()
        latent = sum(
            (estimate.float() - scale.detach()).square().mean()
            for estimate, scale in zip(estimates, scales, strict=True)
        )
        loss = loss + config.latent_weight * latent + config.commitment_weight * commitment
        figures = {
            "l1": float(error.detach().abs().mean()),
            "psnr": -10 * math.log10(max(float(error.detach().square().mean()), 1e-9)),
            "commitment": float(commitment.detach()),
            "latent": float(torch.as_tensor(latent).detach()),
            "bits": self.palette.static_bits_per_pixel(),
        }
        if self._perceptual_now():
            half = slice(0, max(1, len(picture) // 2))
            with self._autocast():
                assert self.perceptual is not None
                pair = shifted(restored[half], picture[half])
                distance = self.perceptual(*pair).float().mean()
            loss = loss + config.perceptual_weight * distance
            figures["lpips"] = float(distance.detach())
        loss = loss + self._feature_loss(restored, picture, figures)
        if labels is not None and not decoder_only:
            contrast = texture_contrast(scales[0], labels.to(self.device))
            loss = loss + config.texture_weight * contrast
            figures["texture"] = float(contrast.detach())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(
            [p for group in self.optimiser.param_groups for p in group["params"]], 1.0
        )
        if torch.isfinite(norm):
            self.optimiser.step()
            self._update_average()
        if not decoder_only:
            self._maybe_rebuild(scales)
        return figures

    def _scales(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Semantic latents, and what texture is left once their colours have predicted it."""
        with self._autocast():
            semantic, texture = self.extractor(picture)
        semantic = semantic.float()
        colours = self.palette.leaves(0, semantic) if bool(self.palette.ready) else semantic
        predicted = self.extractor.prediction(colours)
        return semantic, texture.float() - predicted

    def _start(self, source: Iterator[Batch]) -> None:
        count = max(1, self.config.linear_samples // self.config.batch)
        pictures = torch.cat([next(source)[0] for _ in range(count)]).to(self.device)
        if self.config.start_from:
            start = Path(self.config.start_from)
            warm_start(self.extractor, self.decoder, self.palette, pictures, start)
        else:
            initialise_linear(self.extractor, self.decoder, self.palette, pictures)
        self.average = self._weights()

    def _feature_loss(
        self, restored: Tensor, picture: Tensor, figures: dict[str, float]
    ) -> Tensor | float:
        """One network a step, in turn, on the half of the batch that the perceptual loss leaves."""
        if not self.features or self.step < self.config.features_from * self.config.joint_steps:
            return 0.0
        name = whose_turn(list(self.features), self.step)
        half = slice(len(picture) // 2, None)
        with self._autocast():
            pair = shifted(restored[half], picture[half])
            distance: Tensor = self.features[name](*pair).float().mean()
        figures[name] = float(distance.detach())
        return len(self.features) * self.config.feature_weights[name] * distance

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _states_now(self) -> int:
        """How many states, from the finest, take part: all of them once things have settled."""
        config = self.config
        share = (self.step - config.float_steps) / (config.settle_steps - config.float_steps)
        return max(1, min(len(config.states), math.ceil(share * len(config.states))))

    def _perceptual_now(self) -> bool:
        start = self.config.perceptual_from * self.config.joint_steps
        return self.perceptual is not None and self.step >= start

    def _learning_rate(self) -> float:
        config = self.config
        joint = self.step < config.joint_steps
        first = 0 if joint else config.joint_steps
        steps = config.joint_steps if joint else config.decoder_steps
        peak = config.learning_rate if joint else config.decoder_learning_rate
        here = self.step - first
        warm = min(1.0, (here + 1) / max(1, min(config.warmup_steps, steps // 4)))
        floor = 0.25 if joint else 0.02
        return peak * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * here / steps)))

    def _maybe_rebuild(self, scales: tuple[Tensor, Tensor]) -> None:
        config = self.config
        with torch.no_grad():
            for name, vectors in self.palette.vectors(scales).items():
                keep = torch.randperm(len(vectors), device=vectors.device)[: 256 * config.batch]
                self._recent[name].append(vectors[keep].detach().clone())
                limit = max(1, config.tree_samples // (256 * config.batch))
                del self._recent[name][:-limit]
        settled = self.step >= config.settle_steps
        every = config.rebuild_every if settled else config.rebuild_every_early
        if self.step >= config.float_steps and self.step % every == 0:
            self.palette.rebuild({name: torch.cat(v) for name, v in self._recent.items()})

    def _freeze(self, source: Iterator[Batch]) -> None:
        """Averaged weights take over; the trees are fitted on a large sample and then stay."""
        self._load_average()
        samples: dict[str, list[Tensor]] = {plane.name: [] for plane in self.config.planes}
        with torch.no_grad():
            for _ in range(max(1, 1600 // self.config.batch)):
                latents = self._scales(next(source)[0].to(self.device))
                for name, vectors in self.palette.vectors(latents).items():
                    keep = torch.randperm(len(vectors), device=vectors.device)
                    samples[name].append(vectors[keep[: 128 * self.config.batch]])
        self.palette.rebuild({name: torch.cat(v) for name, v in samples.items()})
        self.extractor.requires_grad_(False)
        self.optimiser = self._new_optimiser(decoder_only=True)

    def _new_optimiser(self, *, decoder_only: bool) -> torch.optim.Optimizer:
        modules = [self.decoder] if decoder_only else [self.extractor, self.decoder]
        return Muon(modules)

    def _trained(self) -> dict[str, nn.Module]:
        return {"extractor": self.extractor, "decoder": self.decoder}

    def _weights(self) -> dict[str, Tensor]:
        """A copy of both networks' weights, as the average has them."""
        return {
            f"{prefix}/{key}": value.detach().clone()
            for prefix, module in self._trained().items()
            for key, value in module.state_dict().items()
        }

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.config.ema, (self.step + 1) / (self.step + 10))
        for prefix, module in self._trained().items():
            for key, value in module.state_dict().items():
                self.average[f"{prefix}/{key}"].lerp_(value, 1 - keep)

    @torch.no_grad()
    def _load_average(self) -> None:
        for prefix, module in self._trained().items():
            state = module.state_dict()
            for key in state:
                state[key].copy_(self.average[f"{prefix}/{key}"])

    def _resume(self) -> None:
        found = checkpoint.facts(self.path)
        self.step = int(str(found["step"]))
        if self.step > self.config.joint_steps:
            self.extractor.requires_grad_(False)
            self.optimiser = self._new_optimiser(decoder_only=True)
        modules = {**self._trained(), "palette": self.palette}
        checkpoint.load(self.path, modules, self.average, self.optimiser)

    def _log(self, figures: dict[str, float]) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        with (self.run / "log.jsonl").open("a") as log:
            rounded = {key: round(value, 5) for key, value in figures.items()}
            log.write(json.dumps({"step": self.step, **rounded}) + "\n")


def read_plan(plan: dict[str, Any]) -> tuple[FitConfig, ExtractorConfig, DecoderConfig, bool]:
    """The configurations in a plan, and whether to compute in bf16."""
    values = dict(plan["fit"])
    planes = tuple(PlaneLayout(**plane) for plane in values.pop("planes"))
    states = tuple(tuple(row) for row in values.pop("states"))
    extractor = dict(plan["extractor"])
    extractor["widths"] = tuple(extractor["widths"])
    return (
        FitConfig(planes, states, **values),
        ExtractorConfig(**extractor),
        DecoderConfig.from_dict(plan["decoder"]),
        bool(plan["bf16"]),
    )


def main() -> int:
    """Train until done or out of time; prints a line per 100 steps."""
    parser = argparse.ArgumentParser(prog="python -m codec.markov_palette.train.fit")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-minutes", type=float, default=math.inf)
    parser.add_argument("--backbone", type=Path, help="squeezenet safetensors, for the LPIPS loss")
    parser.add_argument("--heads", type=Path, help="its LPIPS heads")
    parser.add_argument("--detector", type=Path, help="its backbone, for detector_weight")
    parser.add_argument("--classifier", type=Path, help="its weights, for classifier_weight")
    given = parser.parse_args()
    config, extractor, decoder, bf16 = read_plan(json.loads(given.plan.read_text()))
    perceptual = None
    if given.backbone and given.heads:
        perceptual = PerceptualDistance(
            load_file(given.backbone), load_file(given.heads), even=True
        )
    files = {"detector": given.detector, "classifier": given.classifier}
    missing = [n for n, w in config.feature_weights.items() if w > 0 and files[n] is None]
    if missing:
        parser.error(f"the plan has losses whose weights are not given: --{' --'.join(missing)}")
    job = Fit(
        config,
        extractor,
        decoder,
        cache=given.run / "cache",
        run=given.run,
        device=given.device,
        bf16=bf16,
        perceptual=perceptual,
        features=load_losses({name: file for name, file in files.items() if file is not None}),
        labels=TextureLabels(given.run / "cache") if config.texture_weight > 0 else None,
    )

    def report(step: int, total: int, figures: Mapping[str, float]) -> None:
        if step % 100 == 0:
            rounded = {key: round(value, 4) for key, value in figures.items()}
            print(step, total, rounded, flush=True)

    done = job.train(report, max_seconds=60 * given.max_minutes)
    print("done" if done else f"stopped at {job.step} of {job.total_steps}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
