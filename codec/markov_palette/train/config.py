"""Settings of the fit step as plain dataclasses (the recipe validates them with pydantic)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlaneLayout:
    """One plane: which scale (0 semantic, 1 texture), its channels, and its tree's depth.

    rate_weights: what a bit is worth at every split, as a share of the vectors' variance; without
    them vectors take their nearest leaves.
    """

    name: str
    scale: int
    first_channel: int
    channels: int
    depth: int
    rate_weights: tuple[float, ...] = ()


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
