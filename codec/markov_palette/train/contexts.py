"""One plane's context network in floating point, and its rounding to integers.

Weights are a part that all passes share and a part of each pass's own; a node's entry and
readout are a linear map of its colours and a part of its own. Both are only there to learn
faster: rounding adds the parts up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec.entropy import PROBABILITY_ONE
from codec.exact import ACTIVATION_LIMIT, UNIT
from codec.kit.rounding import activations, biases, finest, integers
from codec.markov_palette.context_network import (
    COLOUR_LIMIT,
    ODDS_LIMIT,
    ODDS_UNIT,
    PASSES,
    PLACE_INPUTS,
    PlaneNetwork,
    Trunk,
    input_colours,
)
from codec.markov_palette.contexts import ContextModel, relations
from codec.markov_palette.palette import Indices, MarkovPalette, PaletteTree
from codec.markov_palette.train.samples import Batch, ContextSamples

_LARGEST = ACTIVATION_LIMIT / UNIT


class FloatNetwork(nn.Module):
    """The float twin of :class:`codec.markov_palette.context_network.PlaneNetwork`."""

    used: Tensor
    trunk_used: Tensor
    colours: Tensor
    directions: Tensor

    def __init__(
        self,
        tree: PaletteTree,
        mates: tuple[PaletteTree, ...],
        coarser: tuple[PaletteTree, ...],
        *,
        hidden: int,
        width: int,
        trunk: int,
        features: int,
        ratio: int,
        prior: Tensor,
    ) -> None:
        """prior: float32 [nodes], log odds of every node alone, to start from."""
        super().__init__()
        self.depth = tree.depth
        self.inputs = (8 * _columns(tree), 5 * sum(_columns(mate) for mate in mates))
        self.features, self.ratio = features if coarser else 0, ratio
        used = [*_used((tree,), 8), *_used(mates, 5), *([True] * (PLACE_INPUTS + self.features))]
        self.register_buffer("used", torch.tensor(used)[:, None].float())
        self.register_buffer("trunk_used", torch.tensor(_used(coarser, 9))[:, None].float())
        groups, nodes, rows = PASSES * tree.depth, 2**tree.depth - 1, len(used)
        heap = torch.cat([_inputs(tree, depth) for depth in range(tree.depth + 1)])
        steps = heap[2::2] - heap[1::2]
        self.register_buffer("colours", heap[:nodes])
        self.register_buffer("directions", steps / steps.square().sum(1).mean().sqrt().clamp(1e-3))
        channels = heap.shape[1]

        def normal(*shape: int, spread: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * spread)

        self.weights = normal(rows, hidden, spread=rows**-0.5)
        self.own_weights = nn.Parameter(torch.zeros(groups, rows, hidden))
        self.entry_map = normal(channels, hidden, spread=channels**-0.5)
        self.entry = nn.Parameter(torch.zeros(nodes, hidden))
        self.summary = normal(hidden, width, spread=(2 / hidden) ** 0.5)
        self.own_summary = nn.Parameter(torch.zeros(groups, hidden, width))
        self.summary_bias = nn.Parameter(torch.full((groups, width), 0.1))
        self.readout_map = normal(channels, width, spread=0.3 * channels**-0.5)
        self.readout = nn.Parameter(torch.zeros(nodes, width))
        self.prior = nn.Parameter(prior.clone())
        self.trunk: nn.ParameterList | None = None
        if coarser:
            inner = 9 * sum(_columns(other) for other in coarser)
            outer = ratio**2 * features
            self.trunk = nn.ParameterList(
                [
                    normal(inner, trunk, spread=inner**-0.5),
                    nn.Parameter(torch.zeros(trunk)),
                    normal(trunk, outer, spread=(2 / trunk) ** 0.5),
                    nn.Parameter(torch.full((outer,), 0.1)),
                ]
            )

    def forward(self, batch: Batch) -> Tensor:
        """Log odds (natural) of bit 1: float32 [depth, n]."""
        depth, count, _ = batch.neighbours.shape
        groups = (PASSES * depth, count // PASSES)
        weights = self.weights + self.own_weights
        split = weights.shape[1] - self.features
        hidden = torch.bmm(batch.neighbours.view(*groups, -1), weights[:, :split])
        if self.trunk is not None and batch.coarse is not None:
            first, bias, second, outer_bias = self.trunk
            inner = (batch.coarse @ first + bias).clamp(0, _LARGEST)
            # Each position's own phase only: a quarter of the outputs.
            phases = (inner @ second + outer_bias).view(*inner.shape[:2], -1, self.features)
            rows = torch.arange(count, device=inner.device)
            place = phases[:, rows, batch.phase].clamp(0, _LARGEST)
            seen = place[list(batch.trunk_of)].view(*groups, -1)
            hidden = torch.baddbmm(hidden, seen, weights[:, split:])
        nodes = self._nodes(batch.leaf)
        entry, readout = self._node_parts()
        hidden = hidden.view(depth, count, -1) + nn.functional.embedding(nodes, entry)
        hidden = hidden.clamp(0, _LARGEST)
        summary = torch.bmm(hidden.view(*groups, -1), self.summary + self.own_summary)
        summary = (summary + self.summary_bias[:, None]).clamp(0, _LARGEST)
        odds = summary.view(depth, count, -1) * nn.functional.embedding(nodes, readout)
        return odds.sum(2) + self.prior[nodes]

    def bits(self, leaf: Tensor) -> Tensor:
        """The bits that split the nodes above ``leaf`` (int64 [n]): float32 [depth, n]."""
        return torch.stack([(leaf >> (self.depth - d - 1)) & 1 for d in range(self.depth)]).float()

    def rounded(self) -> PlaneNetwork:
        """The integer network, on the finest grids that the exactness bound allows."""
        entry, readout = (part.detach() for part in self._node_parts())
        weights = ((self.weights + self.own_weights) * self.used).detach()
        summary = (self.summary + self.own_summary).detach()
        groups = PASSES * self.depth
        heap = np.repeat(np.arange(self.depth), 2 ** np.arange(self.depth))
        largest = torch.full((weights.shape[1],), float(ACTIVATION_LIMIT))
        largest[: sum(self.inputs)] = COLOUR_LIMIT
        largest[sum(self.inputs) : sum(self.inputs) + PLACE_INPUTS] = UNIT
        shifts = np.zeros((3, groups), np.int32)
        hidden_weights = np.zeros(weights.shape, np.int16)
        summary_weights = np.zeros(summary.shape, np.int16)
        summary_bias = np.zeros(self.summary_bias.shape, np.int32)
        integer_entry = np.zeros(entry.shape, np.int32)
        integer_readout = np.zeros(readout.shape, np.int16)
        integer_prior = np.zeros(self.prior.shape, np.int32)
        for depth in range(self.depth):
            rows = torch.from_numpy(np.flatnonzero(heap == depth)).to(entry.device)
            here = slice(PASSES * depth, PASSES * (depth + 1))
            both = weights[here]
            # A node's entry and readout serve both passes, so these share their grid.
            shift = finest(both, largest, entry[rows].abs().amax(0))
            shifts[0, here] = shift
            hidden_weights[here] = integers(both, shift)
            integer_entry[rows.cpu().numpy()] = biases(entry[rows], shift)
            for group in range(here.start, here.stop):
                bias = self.summary_bias[group].detach()
                inner = finest(summary[group][None], activations(summary), bias.abs())
                shifts[1, group] = inner
                summary_weights[group] = integers(summary[group], inner)
                summary_bias[group] = biases(bias, inner)
            prior = self.prior[rows].detach()
            columns = readout[rows].T[None]
            outer = finest(columns, activations(columns), prior.abs())
            down = outer + (UNIT // ODDS_UNIT).bit_length() - 1
            shifts[2, here] = down
            integer_readout[rows.cpu().numpy()] = integers(readout[rows], outer)
            scaled = (prior.double() * UNIT * 2.0**outer).round().long() + (1 << down >> 1)
            integer_prior[rows.cpu().numpy()] = scaled.cpu().numpy()
        own, mates = self.inputs
        return PlaneNetwork(
            own=np.ascontiguousarray(hidden_weights[:, :own]),
            mates=np.ascontiguousarray(hidden_weights[:, own : own + mates]),
            place=np.ascontiguousarray(hidden_weights[:, own + mates :]),
            entry=integer_entry,
            summary=summary_weights,
            summary_bias=summary_bias,
            readout=integer_readout,
            prior=integer_prior,
            shifts=shifts,
            trunk=self._rounded_trunk(),
        )

    def _rounded_trunk(self) -> Trunk | None:
        if self.trunk is None:
            return None
        first, bias, second, outer_bias = (part.detach() for part in self.trunk)
        first = first * self.trunk_used
        shift = finest(first[None], torch.full((len(first),), float(COLOUR_LIMIT)), bias.abs())
        outer = finest(second[None], activations(second[None]), outer_bias.abs())
        return Trunk(
            weights=integers(first, shift),
            bias=biases(bias, shift),
            phase_weights=integers(second, outer),
            phase_bias=biases(outer_bias, outer),
            shifts=np.array([shift, outer], np.int32),
        )

    def _node_parts(self) -> tuple[Tensor, Tensor]:
        return (
            self.colours @ self.entry_map + self.entry,
            self.directions @ self.readout_map + self.readout,
        )

    def _nodes(self, leaf: Tensor) -> Tensor:
        """Heap rows of the nodes above ``leaf``: int64 [depth, n]."""
        return torch.stack([(leaf >> (self.depth - d)) + 2**d - 1 for d in range(self.depth)])


def _columns(tree: PaletteTree) -> int:
    return int(input_colours(tree, 0).shape[1])


def _inputs(tree: PaletteTree, depth: int) -> Tensor:
    return torch.from_numpy(input_colours(tree, depth)) / UNIT


def _used(trees: tuple[PaletteTree, ...], steps: int) -> list[bool]:
    """Which input columns carry a colour, and which only fill a row."""
    return steps * [c < tree.channels for tree in trees for c in range(_columns(tree))]


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
