"""Fits the context networks of all planes to the leaf indices of training photos."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from codec.markov_palette.context_network import ODDS_LIMIT, ODDS_UNIT, PlaneNetwork
from codec.markov_palette.contexts import ContextModel, relations
from codec.markov_palette.palette import Indices, MarkovPalette
from codec.probability import PROBABILITY_ONE
from training.contexts.network import FloatNetwork
from training.contexts.samples import ContextSamples

_WARM_UP_STEPS = 50


@dataclass(frozen=True)
class ContextSettings:
    """Sizes of the networks, and how long they are fitted.

    hidden: units of the first layer by scale, coarsest first (the last one serves all further
    ones). width: units of the second. trunk, features: of what looks at the coarser scale; see
    :mod:`codec.markov_palette.context_network`. steps, batch (positions), learning_rate: Adam
    with a cosine schedule, for each plane. seed: same samples, settings and machine, same networks.
    """

    hidden: tuple[int, ...] = (48, 32)
    width: int = 16
    trunk: int = 128
    features: int = 24
    steps: int = 2000
    batch: int = 4096
    learning_rate: float = 4e-3
    seed: int = 1


def fit_contexts(
    palette: MarkovPalette,
    photos: Sequence[Indices],
    settings: ContextSettings,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> ContextModel:
    """Fit every plane's network, round it, and put them together."""
    place = torch.device(device)
    samples = ContextSamples(palette, photos, place)
    mates, coarser = relations(palette.planes)
    scales = list(dict.fromkeys(plane.scale for plane in palette.planes))
    networks = {}
    total = settings.steps * len(palette.planes)
    for number, plane in enumerate(palette.planes):
        torch.manual_seed(settings.seed + number)
        rank = scales.index(plane.scale)
        network = FloatNetwork(
            palette.trees[plane.name],
            tuple(palette.trees[name] for name in mates[plane.name]),
            tuple(palette.trees[name] for name in coarser[plane.name]),
            hidden=settings.hidden[min(rank, len(settings.hidden) - 1)],
            width=settings.width,
            trunk=settings.trunk,
            features=settings.features,
            ratio=samples.ratio(plane.name),
            prior=node_log_odds(samples.leaves(plane.name), plane.depth),
        ).to(place)
        for step in _fit_plane(network, plane.name, samples, settings):
            progress(number * settings.steps + step, total)
        networks[plane.name] = network.cpu().rounded()
    return ContextModel(palette, networks, odds_table())


def static_contexts(palette: MarkovPalette, photos: Sequence[Indices]) -> ContextModel:
    """Static tables for every level: the frequency of each node's bit, whatever is around it."""
    samples = ContextSamples(palette, photos, torch.device("cpu"))
    networks = {}
    for plane in palette.planes:
        odds = node_log_odds(samples.leaves(plane.name), plane.depth) * ODDS_UNIT
        prior = odds.round().clamp(-ODDS_LIMIT, ODDS_LIMIT).int().numpy()
        networks[plane.name] = PlaneNetwork.constant(palette.trees[plane.name], prior)
    return ContextModel(palette, networks, odds_table())


def even_contexts(palette: MarkovPalette) -> ContextModel:
    """Even odds for every split: no model at all."""
    networks = {
        name: PlaneNetwork.constant(tree, np.zeros(2**tree.depth - 1, np.int32))
        for name, tree in palette.trees.items()
    }
    return ContextModel(palette, networks, odds_table())


def odds_table() -> npt.NDArray[np.uint16]:
    """P(bit = 1) * 2**16 for log odds from -256 / 32 to 256 / 32: uint16 [513]."""
    odds = np.arange(-ODDS_LIMIT, ODDS_LIMIT + 1) / ODDS_UNIT
    chances: npt.NDArray[np.float64] = np.round(PROBABILITY_ONE / (1 + np.exp(-odds)))
    return chances.astype(np.uint16)


def node_log_odds(leaves: Tensor, depth: int) -> Tensor:
    """Log odds of bit 1 below every node, from the leaves (int64 [n]): float32 [nodes]."""
    counts = torch.bincount(leaves, minlength=2**depth).double() + 0.5
    levels = []
    for level in range(depth):
        pairs = counts.view(2 ** (level + 1), -1).sum(1).view(-1, 2)
        levels.append((pairs[:, 1] / pairs[:, 0]).log())
    limit = ODDS_LIMIT / ODDS_UNIT
    return torch.cat(levels).clamp(-limit, limit).float()


def _fit_plane(
    network: FloatNetwork,
    plane: str,
    samples: ContextSamples,
    settings: ContextSettings,
) -> Iterator[int]:
    """Fit step by step; yields the steps done."""
    generator = torch.Generator().manual_seed(settings.seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (
            min(1.0, (step + 1) / _WARM_UP_STEPS)
            * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps)))
        ),
    )
    count = samples.positions(plane)
    size = 2 * (settings.batch // 2)
    for step in range(settings.steps):
        chosen = torch.randint(count, (size,), generator=generator)
        batch = samples.batch(plane, chosen.to(network.prior.device))
        loss = functional.binary_cross_entropy_with_logits(
            network(batch), network.bits(batch.leaf), reduction="none"
        )
        optimiser.zero_grad()
        loss.mean(1).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        yield step + 1
