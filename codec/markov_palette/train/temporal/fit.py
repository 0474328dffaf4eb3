"""Fits the networks of predicted frames to transitions, and rounds them to integers.

Networks of splits start from those of key frames, which know everything but the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec.exact import ACTIVATION_LIMIT, EXACT_BELOW, UNIT
from codec.kit.rounding import biases, finest, integers
from codec.markov_palette.context_network import (
    COLOUR_LIMIT,
    MATE_STEPS,
    ODDS_UNIT,
    PASSES,
    PlaneNetwork,
    padded_channels,
)
from codec.markov_palette.contexts import ContextModel
from codec.markov_palette.palette import PaletteTree
from codec.markov_palette.temporal.change_network import ChangeNetwork, layers_of
from codec.markov_palette.temporal.contexts import Changes, Still, TemporalModel
from codec.markov_palette.train.contexts import FloatNetwork
from codec.markov_palette.train.temporal.samples import TemporalSamples
from codec.markov_palette.train.temporal.transitions import (
    ChangeSamples,
    Transition,
    change_costs,
    flags,
)

_LARGEST: Final = ACTIVATION_LIMIT / UNIT
_LEAST_STILL: Final = 1 << 6
_STATUS_TREE: Final = PaletteTree(np.zeros((3, 3), np.int16), np.ones(2, np.uint32), 0)
"""Stands for the status: as many columns."""


@dataclass(frozen=True)
class TemporalSettings:
    """How long networks are fitted: Adam with a cosine schedule, for each plane.

    steps, batch (positions), learning_rate: of splits. change_steps, change_batch (flags),
    change_hidden (units): of changes. seed: same transitions, settings and machine, same networks.
    """

    steps: int = 600
    batch: int = 2048
    learning_rate: float = 2e-3
    change_steps: int = 800
    change_batch: int = 8192
    change_hidden: int = 16
    seed: int = 1


def fit_temporal(
    contexts: ContextModel,
    model: TemporalModel,
    moves: Sequence[Transition],
    settings: TemporalSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> TemporalModel:
    """Both kinds of networks of all planes. model: by which ``moves`` were made."""
    palette = contexts.palette
    torch.manual_seed(settings.seed)
    samples = TemporalSamples(palette, moves, torch.device("cpu"))
    told = _told(model, moves)
    splits, changes = {}, {}
    total = len(palette.planes) * (settings.steps + settings.change_steps)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    for plane in palette.planes:
        name = plane.name
        changes[name] = _fit_changes(model, name, told, moves, settings, step)
        splits[name] = _fit_splits(contexts, name, samples, settings, step)
    return TemporalModel(contexts, splits, changes)


# -- splits ----------------------------------------------------------------------------------------


def _fit_splits(
    contexts: ContextModel,
    plane: str,
    samples: TemporalSamples,
    settings: TemporalSettings,
    step: Callable[[], None],
) -> PlaneNetwork:
    palette, key = contexts.palette, contexts.networks[plane]
    tree = palette.trees[plane]
    mates = tuple(palette.trees[name] for name in contexts.mates[plane])
    coarser = tuple(palette.trees[name] for name in contexts.coarser[plane])
    network = FloatNetwork(
        tree,
        (*mates, tree, _STATUS_TREE),
        coarser if key.trunk is not None else (),
        hidden=key.entry.shape[1],
        width=key.readout.shape[1],
        trunk=1 if key.trunk is None else key.trunk.weights.shape[1],
        features=key.features,
        ratio=max(1, key.ratio()),
        prior=torch.zeros(len(key.prior)),
    )
    _start(network, key, sum(padded_channels(mate.channels) for mate in mates))
    changing = samples.changing(plane)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    schedule = _cosine(optimiser, settings.steps)
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.steps if len(changing) else 0):
        size = 2 * (settings.batch // 2)
        chosen = changing[torch.randint(len(changing), (size,), generator=generator)]
        batch = samples.batch(plane, chosen)
        losses = functional.binary_cross_entropy_with_logits(
            network(batch), network.bits(batch.leaf), reduction="none"
        )
        optimiser.zero_grad()
        loss = (losses * samples.coded(plane, chosen)).sum() / size
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        step()
    return network.rounded()


@torch.no_grad()
def _start(network: FloatNetwork, key: PlaneNetwork, mates: int) -> None:
    """Weights of a key frame's network, and none for what it does not see. mates: columns."""
    groups, hidden = len(key.own), key.entry.shape[1]
    shifts = torch.from_numpy(key.shifts.astype(np.float64))
    scale = torch.exp2(-shifts[0]).float()[:, None, None]
    seen = torch.zeros(groups, len(MATE_STEPS), network.inputs[1] // len(MATE_STEPS), hidden)
    if key.mates.shape[1]:
        seen[:, :, :mates] = torch.from_numpy(key.mates).float().view(groups, -1, mates, hidden)
    parts = [
        torch.from_numpy(key.own).float(),
        seen.flatten(1, 2),
        torch.from_numpy(key.place).float(),
    ]
    weights = torch.cat(parts, 1) * scale
    network.weights.copy_(weights.mean(0))
    network.own_weights.copy_(weights - network.weights)
    inner = torch.exp2(-shifts[1]).float()
    summary = torch.from_numpy(key.summary).float() * inner[:, None, None]
    network.summary.copy_(summary.mean(0))
    network.own_summary.copy_(summary - network.summary)
    network.summary_bias.copy_(_biases(key.summary_bias, inner[:, None]))
    # A node's parts are on the grid of its depth's passes.
    heap = torch.arange(network.depth).repeat_interleave(2 ** torch.arange(network.depth))
    of_node = shifts[:, ::PASSES][:, heap]
    network.entry_map.zero_()
    network.entry.copy_(_biases(key.entry, torch.exp2(-of_node[0]).float()[:, None]))
    outer = torch.exp2(-(of_node[2] - ((UNIT // ODDS_UNIT).bit_length() - 1))).float()
    network.readout_map.zero_()
    network.readout.copy_(torch.from_numpy(key.readout).float() * outer[:, None])
    half = torch.exp2(of_node[2] - 1).float()
    network.prior.copy_((torch.from_numpy(key.prior).float() - half) * outer / UNIT)
    if network.trunk is not None and key.trunk is not None:
        first, second = (torch.tensor(2.0 ** -int(shift)) for shift in key.trunk.shifts)
        inner_weights, inner_bias, outer_weights, outer_bias = network.trunk
        inner_weights.copy_(torch.from_numpy(key.trunk.weights).float() * first)
        inner_bias.copy_(_biases(key.trunk.bias, first))
        outer_weights.copy_(torch.from_numpy(key.trunk.phase_weights).float() * second)
        outer_bias.copy_(_biases(key.trunk.phase_bias, second))


def _biases(values: np.ndarray, scale: Tensor) -> Tensor:  # type: ignore[type-arg]  # of any width
    """What :func:`codec.kit.rounding.biases` rounded; scale: of one step."""
    half = torch.where(scale < 1, 0.5, 0.0) / scale
    return (torch.from_numpy(values).float() - half) * scale / UNIT


def _cosine(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda done: 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * done / steps))
    )


# -- changes ---------------------------------------------------------------------------------------


class FloatChanges(nn.Module):
    """The float twin of :class:`codec.markov_palette.temporal.change_network.ChangeNetwork`."""

    def __init__(self, groups: int, inputs: int, nodes: int, hidden: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(1, inputs, hidden) * inputs**-0.5)
        self.own_weights = nn.Parameter(torch.zeros(groups, inputs, hidden))
        self.entry = nn.Parameter(torch.zeros(nodes, hidden))
        self.first = nn.Parameter(torch.full((groups // PASSES, hidden), 0.1))
        self.readout = nn.Parameter(torch.randn(groups, hidden) * 0.3)
        self.bias = nn.Parameter(torch.full((groups,), -3.0))
        self.prior = nn.Parameter(torch.zeros(nodes))

    def forward(self, group: int, inputs: Tensor, rows: Tensor) -> Tensor:
        """Natural log odds of one group's flags: float32 [n]. inputs: in units of 1.0."""
        hidden = inputs @ (self.weights[0] + self.own_weights[group])
        entry = functional.embedding(rows, self.entry) + self.first[group // PASSES]
        hidden = (hidden + entry).clamp(0, _LARGEST)
        return hidden @ self.readout[group] + self.bias[group] + self.prior[rows]


def _told(
    model: TemporalModel, moves: Sequence[Transition]
) -> dict[tuple[str, int, int], ChangeSamples]:
    """Flags of all transitions by plane, layer and pass (2: of whole planes)."""
    found: dict[tuple[str, int, int], list[ChangeSamples]] = {}
    for move in moves:
        for part, samples in flags(model, move):
            assert isinstance(part, Changes | Still)
            side = part.side if isinstance(part, Changes) else PASSES
            found.setdefault((part.plane, part.layer, side), []).append(_fewer(samples))
    return {
        key: ChangeSamples(*(np.concatenate(column) for column in zip(*rows, strict=True)))
        for key, rows in found.items()
    }


def _fewer(samples: ChangeSamples) -> ChangeSamples:
    """Of flags with nothing around that stay every eighth, with eight times the weight."""
    if not samples.inputs.shape[1]:
        return samples
    usual = ~samples.inputs.any(1) & (samples.changed == 0)
    kept = ~usual
    kept[np.flatnonzero(usual)[::8]] = True
    weights = np.where(usual, np.float32(8), np.float32(1))
    return ChangeSamples(
        samples.inputs[kept], samples.nodes[kept], samples.changed[kept], weights[kept]
    )


def _fit_changes(
    model: TemporalModel,
    plane: str,
    told: dict[tuple[str, int, int], ChangeSamples],
    moves: Sequence[Transition],
    settings: TemporalSettings,
    step: Callable[[], None],
) -> ChangeNetwork:
    palette, layers = model.palette, model.layers[plane]
    groups, inputs = model.changes[plane].weights.shape[:2]
    nodes = len(model.changes[plane].entry)
    network = FloatChanges(groups, inputs, nodes, settings.change_hidden)
    data: list[tuple[Tensor, Tensor, Tensor, Tensor] | None] = []
    for number, layer in enumerate(layers):
        for side in range(PASSES):
            row = told.get((plane, number, side))
            if row is None or not len(row.nodes):
                data.append(None)
                continue
            rows = torch.from_numpy(row.nodes.astype(np.int64)) + 2**layer.after - 1
            data.append(
                (
                    torch.from_numpy(row.inputs),
                    rows,
                    torch.from_numpy(row.changed),
                    torch.from_numpy(row.weights),
                )
            )
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3, betas=(0.9, 0.99))
    schedule = _cosine(optimiser, settings.change_steps)
    generator = torch.Generator().manual_seed(settings.seed)
    size = max(1, settings.change_batch // groups)
    for _ in range(settings.change_steps):
        losses = []
        for group, part in enumerate(data):
            if part is None:
                continue
            seen, rows, changed, weights = part
            chosen = torch.randint(len(rows), (size,), generator=generator)
            odds = network(group, seen[chosen].float() / UNIT, rows[chosen])
            loss = functional.binary_cross_entropy_with_logits(
                odds, changed[chosen], weights[chosen], reduction="sum"
            )
            losses.append(loss / weights[chosen].sum())
        if losses:
            optimiser.zero_grad()
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        step()
    return _rounded(network, model, plane, told, change_costs(palette, moves, plane))


@torch.no_grad()
def _rounded(
    network: FloatChanges,
    model: TemporalModel,
    plane: str,
    told: dict[tuple[str, int, int], ChangeSamples],
    costs: np.ndarray,  # type: ignore[type-arg]  # of the network's own check
) -> ChangeNetwork:
    layers = layers_of(model.palette, plane)
    groups = PASSES * len(layers)
    weights = network.weights + network.own_weights
    entry = network.entry.clone()
    for number, layer in enumerate(layers):
        rows = slice(2**layer.after - 1, 2 ** (layer.after + 1) - 1)
        entry[rows] += network.first[number]
    largest = torch.full((weights.shape[1],), float(COLOUR_LIMIT))
    inner = finest(weights, largest, entry.abs().amax(0))
    limits = torch.full((weights.shape[2],), float(ACTIVATION_LIMIT))
    readout = network.readout.T[None]
    offset = network.bias.abs().max() + network.prior.abs().max()
    outer = finest(readout, limits, offset.expand(groups))
    outer = min(outer, int(math.log2(EXACT_BELOW)) - 12)
    down = outer + (UNIT // ODDS_UNIT).bit_length() - 1
    still = np.full(len(layers), 1 << 15, np.uint16)
    for number in range(len(layers)):
        whole = told.get((plane, number, PASSES))
        if whole is not None:
            share = (whole.changed.sum() + 0.5) / (len(whole.changed) + 1)
            still[number] = np.clip(round(share * 2**16), _LEAST_STILL, 2**16 - _LEAST_STILL)
    scaled = (network.bias.double() * UNIT * 2.0**outer).round().long() + (1 << down >> 1)
    prior = (network.prior.double() * UNIT * 2.0**outer).round().int()
    return ChangeNetwork(
        weights=integers(weights, inner),
        entry=biases(entry, inner),
        readout=integers(network.readout, outer),
        bias=scaled.numpy().astype(np.int32),
        prior=prior.numpy().astype(np.int32),
        still=still,
        shifts=np.array([[inner] * groups, [down] * groups], np.int32),
        costs=costs,
    )
