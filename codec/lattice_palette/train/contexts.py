"""Context networks of lattices: in floating point, their rounding, and how they are fitted.

The float twin of :class:`~codec.lattice_palette.context_network.GroupNetwork`. It is fitted to the
bits of logistic distributions integrated over steps, which the tables of symbols round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from codec.exact import ACTIVATION_LIMIT, UNIT
from codec.kit.recipe import Part
from codec.kit.rounding import activations, biases, finest, integers
from codec.lattice_palette.context_network import INPUT_LIMIT, PAST_TAPS, GroupNetwork
from codec.lattice_palette.contexts import (
    MEAN_UNIT,
    SCALE_FIRST,
    SCALE_STEPS,
    SCALES,
    LatticeContexts,
    symbol_tables,
)
from codec.lattice_palette.palette import LatticePalette, Values

LIMIT = 63
"""Largest value that tables are made for, in steps: the same ones for all chains of a bundle."""
BENT_UNIT = 24
"""The integer that stands for 1.0 among bent values."""
_LARGEST = ACTIVATION_LIMIT / UNIT
_WARM_UP_STEPS = 50
_LAST_SCALE = SCALE_FIRST + (SCALES - 1) / SCALE_STEPS


class LatticeSettings(Part):
    """hidden, width: units of the two layers. radius: of the window on a plane's own values.
    steps, batch (views), learning_rate: Adam with a cosine schedule, for all planes at once; with 0
    steps, one distribution a channel.
    """

    hidden: int = Field(64, ge=1, le=1024)
    width: int = Field(48, ge=1, le=1024)
    radius: int = Field(2, ge=1, le=4)
    steps: int = Field(2000, ge=0)
    batch: int = Field(12, ge=1)
    learning_rate: float = Field(3e-3, gt=0, lt=1)
    seed: int = 1


def fit_lattice(
    palette: LatticePalette,
    values: Values,
    settings: LatticeSettings,
    *,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> LatticeContexts:
    """Fit the networks of all planes of a chain, round them, and put them together.

    values: int32 [views, C, h, w] a plane. With 0 steps every channel has one distribution,
    whatever is around it.
    """
    torch.manual_seed(settings.seed)
    limit = max(LIMIT, *(int(plane.limits.max()) for plane in palette.planes.values()))
    bent = bent_values(limit)
    groups: dict[str, FloatGroup] = {}
    windows = {
        spec.scale: Windows(values[spec.name].shape[2:], palette, settings.radius)
        for spec in palette.specs
    }
    for spec in palette.specs:
        flat = torch.from_numpy(values[spec.name]).float().transpose(0, 1).flatten(1)
        groups[spec.name] = FloatGroup(spec.first_channel, flat, windows[spec.scale], settings)
    parameters = [p for group in groups.values() for p in group.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(settings.seed)
    count = len(next(iter(values.values())))
    whole = {name: torch.from_numpy(part).float() for name, part in values.items()}
    table = torch.from_numpy(bent).float() / BENT_UNIT
    for step in range(settings.steps):
        warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
        cosine = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps))
        for row in optimiser.param_groups:
            row["lr"] = settings.learning_rate * warm * cosine
        chosen = torch.randint(count, (min(settings.batch, count),), generator=generator)
        batch = {name: part[chosen] for name, part in whole.items()}
        loss = torch.zeros(())
        seen_of = {
            scale: _seen(
                [batch[spec.name] for spec in palette.specs if spec.scale == scale],
                table,
                settings.radius,
            )
            for scale in windows
        }
        for spec in palette.specs:
            seen = seen_of[spec.scale]
            bits = groups[spec.name].bits(batch[spec.name], seen, spec.first_channel)
            loss = loss + bits / len(chosen)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1000.0)
        optimiser.step()
        progress(step + 1, settings.steps)
    networks = {name: group.rounded() for name, group in groups.items()}
    return LatticeContexts(palette, networks, symbol_tables(limit), bent)


def bent_values(limit: int) -> npt.NDArray[np.int16]:
    """What values -limit to limit are to networks: int16 [2 limit + 1]."""
    value = np.arange(-limit, limit + 1)
    bent = np.round(BENT_UNIT * np.sign(value) * (np.sqrt(np.abs(value) + 0.25) - 0.5))
    return np.asarray(np.clip(bent, -INPUT_LIMIT, INPUT_LIMIT), np.int16)


class Windows:
    """Where the neighbours of every phase's positions are, and which of them are known.

    By phase: positions, int64 [n]; the taps of the window that any of them knows; cells of the
    padded grid, int64 [n, taps]; and which are known, float32 [n, taps]. past: all positions'
    nearest cells, int64 [cells, 9].
    """

    def __init__(self, shape: tuple[int, ...], palette: LatticePalette, radius: int) -> None:
        rows, columns = shape
        self.radius, order = radius, palette.order
        row, column = np.divmod(np.arange(rows * columns), columns)
        phase = order[row % len(order), column % len(order)].reshape(rows, columns)
        padded = np.full((rows + 2 * radius, columns + 2 * radius), 255)
        padded[radius : radius + rows, radius : radius + columns] = phase
        self._stride = columns + 2 * radius
        self.positions: list[Tensor] = []
        self.taps: list[npt.NDArray[np.intp]] = []
        self.own: list[Tensor] = []
        self.known: list[Tensor] = []
        every = (row + radius) * self._stride + column + radius
        self.past = torch.from_numpy(every[:, None] + self._steps(1))
        for p in range(palette.phases):
            here = np.flatnonzero(phase.reshape(-1) == p)
            cells = every[here][:, None] + self._steps(radius)
            known = padded.reshape(-1)[cells] < p
            taps = np.flatnonzero(known.any(0))
            self.positions.append(torch.from_numpy(here))
            self.taps.append(taps)
            self.own.append(torch.from_numpy(cells[:, taps]))
            self.known.append(torch.from_numpy(known[:, taps]).float())

    def _steps(self, radius: int) -> npt.NDArray[np.int64]:
        reach = np.arange(-radius, radius + 1)
        return np.asarray((reach[:, None] * self._stride + reach).reshape(-1))


class FloatGroup(nn.Module):
    """The float twin of one plane's network."""

    def __init__(
        self, before: int, values: Tensor, windows: Windows, settings: LatticeSettings
    ) -> None:
        """before: channels of the planes told before. values: float32 [C, n], to begin with."""
        super().__init__()
        self._windows, phases = windows, len(windows.positions)
        count, taps = len(values), [len(taps) for taps in windows.taps]
        inputs = PAST_TAPS * before + max(taps) * count

        def normal(*shape: int, spread: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * spread)

        self.past = normal(PAST_TAPS * before, settings.hidden, spread=inputs**-0.5)
        self.own = nn.ParameterList(
            normal(known * count, settings.hidden, spread=inputs**-0.5) for known in taps
        )
        self.bias = nn.Parameter(torch.full((phases, settings.hidden), 0.1))
        self.middle = normal(settings.hidden, settings.width, spread=(2 / settings.hidden) ** 0.5)
        self.middle_bias = nn.Parameter(torch.full((settings.width,), 0.1))
        self.out = nn.Parameter(torch.zeros(settings.width, 2 * count))
        scale = (0.55 * values.std(1)).clamp_min(0.08).log()
        self.out_bias = nn.Parameter(torch.cat([values.mean(1), scale]))
        self._count = count

    def bits(self, values: Tensor, seen: Tensor, first: int) -> Tensor:
        """Of a batch of values, float32 [n, C, h, w], all together: a scalar.

        seen: bent values of the scale on a grid with a border, float32 [n, channels, cells].
        first: the plane's first channel there.
        """
        count, windows, total = self._count, self._windows, torch.zeros(())
        past = None
        if len(self.past):
            around = seen[:, :first, windows.past]  # [n, C, cells, 9]
            past = around.permute(0, 2, 3, 1).flatten(2) @ self.past
        for phase, positions in enumerate(windows.positions):
            hidden = self.bias[phase]
            if len(self.own[phase]):
                near = seen[:, first : first + count, windows.own[phase]] * windows.known[phase]
                hidden = hidden + near.permute(0, 2, 3, 1).flatten(2) @ self.own[phase]
            if past is not None:
                hidden = hidden + past[:, positions]
            hidden = hidden.clamp(0, _LARGEST)
            middle = (hidden @ self.middle + self.middle_bias).clamp(0, _LARGEST)
            means, scales = (middle @ self.out + self.out_bias).chunk(2, -1)
            wanted = values.flatten(2)[:, :, positions].transpose(1, 2)
            total = total + logistic_bits(wanted, means, scales).sum()
        return total

    def rounded(self) -> GroupNetwork:
        """The integer network, on the finest grids that the exactness bound allows."""
        scale = UNIT / BENT_UNIT
        past, phases = self.past.detach() * scale, len(self.own)
        side = 2 * self._windows.radius + 1
        own = torch.zeros(phases, side * side, self._count, past.shape[1])
        for phase, weights in enumerate(self.own):
            taps = self._windows.taps[phase]
            own[phase, taps] = weights.detach().view(-1, self._count, weights.shape[1]) * scale
        own = own.flatten(1, 2)
        both = torch.cat([past.expand(phases, *past.shape), own], 1)
        largest = torch.full((both.shape[1],), float(INPUT_LIMIT))
        hidden = finest(both, largest, self.bias.detach().abs().amax(0))
        inner = self.middle.detach()[None]
        middle = finest(inner, activations(inner), self.middle_bias.detach().abs())
        count = self._count
        factor = torch.cat([torch.full((count,), MEAN_UNIT), torch.full((count,), SCALE_STEPS)])
        factor = factor / UNIT
        out = self.out.detach() * factor
        offset = torch.cat([torch.zeros(count), torch.full((count,), SCALE_FIRST)])
        bias = (self.out_bias.detach() - offset) * factor
        last = finest(out[None], activations(out[None]), bias.abs())
        return GroupNetwork(
            past=integers(past, hidden),
            own=integers(own, hidden),
            bias=biases(self.bias.detach(), hidden),
            middle=integers(self.middle.detach(), middle),
            middle_bias=biases(self.middle_bias.detach(), middle),
            out=integers(out, last),
            out_bias=biases(bias, last),
            shifts=np.array([hidden, middle, last], np.int32),
        )


def logistic_bits(values: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Bits of whole ``values`` under logistic distributions; scales: natural logs, in steps."""
    inverse = torch.exp(-scales.clamp(SCALE_FIRST, _LAST_SCALE))
    # Symmetric, for the precision of the upper tail.
    away = (values - means).abs()
    chance = torch.sigmoid((0.5 - away) * inverse) - torch.sigmoid((-0.5 - away) * inverse)
    return -torch.log2(chance.clamp_min(1e-6))


def _seen(values: Sequence[Tensor], table: Tensor, radius: int) -> Tensor:
    """Bent values of a scale's planes with a border of zeros: float32 [n, channels, cells]."""
    bent = table[torch.cat(list(values), 1).long() + len(table) // 2]
    return nn.functional.pad(bent, [radius] * 4).flatten(2)
