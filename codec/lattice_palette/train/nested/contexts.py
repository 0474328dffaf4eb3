"""Context networks of nested lattices: what they see is recorded, and they are fitted to it.

The stream itself is run over clips, with the encoder's own choices, so that every frame is
predicted from what a decoder has; its networks' inputs and the bits that they were to foretell are
the training set of each network by itself. The float twin ends as integers on the finest grids
that the exactness bound allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from codec.exact import ACTIVATION_LIMIT, UNIT
from codec.kit.recipe import Part
from codec.kit.rounding import activations, biases, finest, integers
from codec.lattice_palette.nested.choice import choose
from codec.lattice_palette.nested.contexts import (
    NestedContexts,
    inputs_of,
    network_names,
    where_shape,
)
from codec.lattice_palette.nested.network import (
    INPUT_LIMIT,
    ODDS_LIMIT,
    ODDS_UNIT,
    OUTPUTS,
    BitNetwork,
    odds_table,
)
from codec.lattice_palette.nested.palette import NestedPalette
from codec.lattice_palette.nested.picture import BENT_LIMIT
from codec.lattice_palette.nested.surroundings import AROUND, CLASSES
from shared.errors import RecipeError

Clip = npt.NDArray[np.float32]
"""Channels to quantise of consecutive frames: float32 [frames, C, h, w]."""

Rows = tuple[npt.NDArray[np.integer[Any]], ...]
"""What a network saw, and what it is to foretell: inputs int8 [n, inputs], classes int8 [n, C], how
far away int16 [n, C], and whether above int8 [n, C]."""

_LARGEST = ACTIVATION_LIMIT / UNIT
_MOST_SUM = 0.95 * 2**15
"""Of absolute terms, in units of activations: what machines agree on, see :mod:`codec.exact`."""
_WARM_UP = 50
_WHERE = "where"
_TABLE_TIMES = 3.0
"""A table's entries learn so many times as fast: of few rows each."""
_BENT_UNIT = 24


class NestedContextsPart(Part):
    """hidden, width: units of the two layers. steps, batch (positions), learning_rate: Adam with a
    cosine schedule, for each network. predicted_steps: for those of predicted frames, where there
    are too few clips for as many; None is the same. rows: of positions of clips that a network is
    fitted to, up to three times as many, of every clip no more than of others. stills: views of
    photos that are told as key frames, with all their positions. key_every: of this many frames one
    is told as a key frame too. weights: squared steps that a bit is worth, one drawn for each clip;
    none: what it is worth at the clip's state.
    """

    hidden: int = Field(64, ge=1, le=1024)
    width: int = Field(48, ge=1, le=1024)
    steps: int = Field(1500, ge=0)
    predicted_steps: int | None = Field(None, ge=0)
    batch: int = Field(1024, ge=1)
    learning_rate: float = Field(4e-3, gt=0, lt=1)
    rows: int = Field(60_000, ge=1)
    stills: int = Field(100, ge=1)
    key_every: int = Field(6, ge=1)
    weights: tuple[float, ...] = (0.04, 0.1, 0.2)
    seed: int = 1


BitsOf = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What rows take, float32 [n], of log odds [n, 4, C], of how far away values are [n, C], and of
whether they are above."""


@dataclass(frozen=True)
class Kind:
    """A kind of nested lattices. contexts: their class. deeper: bits of rows of a deeper depth than
    a plane's first; None is what :func:`bits_of` says."""

    contexts: type[NestedContexts] = NestedContexts
    deeper: BitsOf | None = None

    def bits(self, name: str) -> BitsOf:
        """Of rows of the network of a name."""
        first = name.endswith(".0")
        return partial(bits_of, first=first) if first or self.deeper is None else self.deeper


NESTED: Final = Kind()


def fit_nested(
    palette: NestedPalette,
    clips: Sequence[Clip],
    stills: Iterable[Clip],
    settings: NestedContextsPart,
    *,
    kind: Kind = NESTED,
    kept: NestedContexts | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> NestedContexts:
    """Run the stream over clips, fit all networks to what they saw, and put them together.

    clips: consecutive frames each. stills: frames of which each stands alone. Without clips, or
    with 0 steps, see :func:`plain_contexts`. kind: of the lattices. kept: contexts of a chain with
    the same planes, and fewer depths and states: what it has is not fitted again. jobs: processes
    that work side by side; what comes of it is the same.
    """
    start = plain_contexts(palette, kind) if kept is None else extended(kept, palette)
    most = math.ceil(3 * settings.rows / max(1, len(clips)))
    states = [row.state for row in palette.states]
    if kept is not None:
        states = states[: len(states) - len(kept.palette.states)] or states
    lacking = frozenset(start.networks) - (frozenset() if kept is None else set(kept.networks))
    job = _Recording(palette, kind, settings, states, lacking, most)
    moving = [(job, clip, number) for number, clip in enumerate(clips)]
    still = list(_parts(stills))
    groups = _groups(start, lacking) if settings.steps else []
    networks = dict(start.networks)
    with _pool(jobs) as pool:
        # All that networks of all planes see in photos would not fit into memory.
        records = _recorded(moving, pool)
        for number, names in enumerate(groups):
            progress(number, len(groups))
            alone = [(replace(job, names=names), part, -1 - n) for n, part in enumerate(still)]
            seen = _recorded(alone, pool) if any(map(_is_key, names)) else {}
            rows = {
                name: _joined([part[name] for part in (records, seen) if name in part])
                for name in sorted(names & (records.keys() | seen.keys()))
            }
            networks |= _fitted(rows, job, pool)
            for name in names:
                records.pop(name, None)
        progress(len(groups), len(groups))
    assert start.where is not None
    where = _where(start.where, palette, records)
    if kept is not None and kept.where is not None:
        where = np.concatenate([where[:, : -kept.where.shape[1]], kept.where], axis=1)
    return kind.contexts(palette, networks, start.odds, start.bent, where)


def _groups(start: NestedContexts, lacking: frozenset[str]) -> list[frozenset[str]]:
    """Names of networks that are fitted together: of one plane, of key frames or of others."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in start.networks:
        if name in lacking:
            kind, plane = name.split(".", 1)
            groups.setdefault((kind, plane.rpartition(".")[0]), []).append(name)
    return [frozenset(names) for names in groups.values()]


def _is_key(name: str) -> bool:
    return name.startswith("key.")


def _recorded(
    work: Sequence[tuple[_Recording, Clip, int]], pool: ProcessPoolExecutor | None
) -> dict[str, Rows]:
    """What networks see in clips, by their names."""
    found: dict[str, list[Rows]] = {}
    for part in map(_record, work) if pool is None else pool.map(_record, work):
        for name, rows in part.items():
            found.setdefault(name, []).append(rows)
    return {name: _joined(rows) for name, rows in found.items()}


def _joined(rows: Sequence[Rows]) -> Rows:
    if len(rows) == 1:
        return rows[0]
    return tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))


def _fitted(
    rows: Mapping[str, Rows], job: _Recording, pool: ProcessPoolExecutor | None
) -> dict[str, BitNetwork]:
    still = job.settings
    other = still.model_copy(update={"steps": still.predicted_steps})
    moving = still if still.predicted_steps is None else other
    fits = [
        partial(_fit, seen, still if _is_key(name) else moving, job.kind.bits(name))
        for name, seen in rows.items()
    ]
    if pool is None:
        made = [fit() for fit in fits]
    else:
        made = [running.result() for running in [pool.submit(fit) for fit in fits]]
    return dict(zip(rows, made, strict=True))


def extended(kept: NestedContexts, palette: NestedPalette) -> NestedContexts:
    """Contexts of a chain whose first depths and coarsest states are those of ``kept``; the rest
    is plain. Raises RecipeError ``bad_bundle`` where kept is no part of the palette.
    """
    plain = plain_contexts(palette)
    shift = len(palette.states) - len(kept.palette.states)
    fits = shift >= 0 and all(
        palette.depths(state + shift) == kept.palette.depths(state)
        for state in range(len(kept.palette.states))
    )
    if (
        not fits
        or plain.where is None
        or kept.where is None
        or not set(kept.networks) <= set(plain.networks)
    ):
        raise RecipeError("bad_bundle", "the old bundle's lattices are no part of the recipe's")
    where = np.concatenate([plain.where[:, :shift], kept.where], axis=1)
    return NestedContexts(palette, plain.networks | kept.networks, kept.odds, kept.bent, where)


def _pool(jobs: int) -> AbstractContextManager[ProcessPoolExecutor | None]:
    if jobs == 1:
        return nullcontext()
    return ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,))


@dataclass(frozen=True)
class _Recording:
    """What is recorded of every clip: at one of these states what networks of these names see, of
    each at most so many rows; of stills all."""

    palette: NestedPalette
    kind: Kind
    settings: NestedContextsPart
    states: list[int]
    names: frozenset[str]
    most: int


def _parts(stills: Iterable[Clip], size: int = 10) -> Iterator[Clip]:
    for still in stills:
        for start in range(0, len(still), size):
            yield still[start : start + size]


def _record(work: tuple[_Recording, Clip, int]) -> dict[str, Rows]:
    """What networks see in a clip; number: the clip's, and below 0 each of its frames stands
    alone."""
    job, clip, number = work
    palette, settings, states = job.palette, job.settings, job.states
    records, plain = _Records(job, number), plain_contexts(palette, job.kind)
    scale = palette.specs[0].scale
    if number < 0:
        for frame in clip:
            values = palette.quantise({scale: frame}, states[0])
            _run(plain, palette, frame.shape[1:], states[0], values, None, records)
        return records.rows()
    state = states[int(records.rng.choice(len(states), p=_chances(len(states))))]
    weights = settings.weights or [palette.weights[state - states[0]]]
    weight = float(records.rng.choice(weights))
    reference = None
    for number, frame in enumerate(clip):
        features, shape = {scale: frame}, frame.shape[1:]
        if reference is None or number % settings.key_every == 0:
            values = palette.quantise(features, state)
            key = _run(plain, palette, shape, state, values, None, records)
            reference = reference or key
        if number:
            values, _ = choose(palette, features, reference, state, weight)
            reference = _run(plain, palette, shape, state, values, reference, records)
    return records.rows()


def plain_contexts(palette: NestedPalette, kind: Kind = NESTED) -> NestedContexts:
    """Contexts whose networks give every bit the same odds, and which predict: for tests, and to
    begin with."""
    networks = {}
    for frames in ("key", "predicted"):
        for name, plane, _ in network_names(palette, frames):
            inputs = inputs_of(palette, plane, predicted=frames == "predicted")
            outputs = OUTPUTS * palette.planes[plane].spec.channels
            bias = np.repeat(np.array([-48, 0, -32, 0], np.int32), outputs // OUTPUTS)
            networks[name] = BitNetwork(
                np.zeros((inputs, 1), np.int16),
                np.zeros(1, np.int32),
                np.zeros((1, 1), np.int16),
                np.zeros(1, np.int32),
                np.zeros((1, outputs), np.int16),
                bias,
                np.zeros(3, np.int32),
            )
    shape = where_shape(palette)
    slope = np.linspace(-4, 1, len(AROUND) + 1) + np.array([0, 2])[:, None]
    where = np.broadcast_to(65536 / (1 + np.exp(-slope)), shape).astype(np.uint16)
    return kind.contexts(palette, networks, odds_table(), bent_values(), where)


def bent_values() -> npt.NDArray[np.int16]:
    """What values -255 to 255 are to networks: int16 [511]."""
    value = np.arange(-BENT_LIMIT, BENT_LIMIT + 1)
    bent = np.round(_BENT_UNIT * np.sign(value) * (np.sqrt(np.abs(value) + 0.25) - 0.5))
    return np.asarray(np.clip(bent, -INPUT_LIMIT, INPUT_LIMIT), np.int16)


Values = Mapping[str, npt.NDArray[np.int32]]
Found = tuple[Values, Mapping[str, npt.NDArray[np.uint8]]]


def _run(
    contexts: NestedContexts,
    palette: NestedPalette,
    shape: tuple[int, ...],
    state: int,
    values: Values,
    reference: Found | None,
    records: _Records,
) -> Found:
    """Tell a frame, with a record of what networks see; returns what a decoder has of it."""
    rows, columns = shape
    picture = contexts.open((rows, columns), reference, recorder=records)
    picture.aim(values, palette.depths(state))
    for layer in range(palette.coarsest_state, state - 1, -1):
        picture.begin(layer)
        steps = palette.passes(layer) if reference is None else palette.predicted_passes(layer)
        for step in steps:
            picture.run(step, lambda odds: picture.wanted())
    return picture.found()


def _chances(states: int) -> npt.NDArray[np.float64]:
    """Half of the clips are at the finest state: its stream has all layers in it."""
    chances = np.full(states, 0.5 / max(1, states - 1))
    chances[0] = 0.5 if states > 1 else 1.0
    return chances


class _Records:
    """What every network saw in one clip."""

    def __init__(self, job: _Recording, number: int) -> None:
        """number: the clip's, by which it is chosen what is kept."""
        self.rng = np.random.default_rng([job.settings.seed, int(number < 0), abs(number)])
        self._job, self._parts = job, dict[str, list[Rows]]()
        self._most = None if number < 0 else job.most

    def wants(self, name: str) -> bool:
        """See :class:`codec.lattice_palette.nested.seen.Recorder`."""
        return name == _WHERE or name in self._job.names

    def __call__(
        self,
        name: str,
        inputs: npt.NDArray[np.generic],
        classes: npt.NDArray[np.intp] | None,
        away: npt.NDArray[np.int32],
        above: npt.NDArray[np.bool_],
    ) -> None:
        """See :class:`codec.lattice_palette.nested.seen.Recorder`."""
        assert classes is not None, "whoever records is told classes"
        far = np.minimum(away, 255).astype(np.int16)
        parts = (inputs.astype(np.int8), classes.astype(np.int8), far, above.astype(np.int8))
        self._parts.setdefault(name, []).append(parts)

    def rows(self) -> dict[str, Rows]:
        """By network, see :data:`Rows`; of where something changes, all of them."""
        found = {}
        for name, parts in self._parts.items():
            rows = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
            if self._most is not None and len(rows[0]) > self._most and name in self._job.names:
                chosen = np.sort(self.rng.choice(len(rows[0]), self._most, replace=False))
                rows = tuple(part[chosen] for part in rows)
            found[name] = rows
        return found


def _where(
    start: npt.NDArray[np.uint16], palette: NestedPalette, records: Mapping[str, Rows]
) -> npt.NDArray[np.uint16]:
    """Shares of positions that change, with a start of four positions each."""
    counts = np.zeros((*start.shape, 2))
    counts[..., 1] = 4 * (start / 65536)
    counts[..., 0] = 4 - counts[..., 1]
    shares, states, phases = start.shape[:3]
    for share, row, phase in np.ndindex(shares, states, phases):
        seen = records.get(f"where.{share + 1}.{palette.finest_state + row}.{phase}")
        if seen is not None:
            (before, count), flags = seen[0].T, seen[2][:, 0]
            np.add.at(counts[share, row, phase], (before, count, flags), 1)
    share = counts[..., 1] / counts.sum(-1)
    return np.asarray((share * 65536).round().clip(32, 65500), np.uint16)


class FloatNetwork(nn.Module):
    """The float twin of :class:`~codec.lattice_palette.nested.network.BitNetwork`."""

    def __init__(self, inputs: int, outputs: int, settings: NestedContextsPart) -> None:
        super().__init__()
        hidden, width = settings.hidden, settings.width
        self.enter = nn.Parameter(torch.randn(inputs, hidden) * inputs**-0.5)
        self.enter_bias = nn.Parameter(torch.full((hidden,), 0.1))
        self.middle = nn.Parameter(torch.randn(hidden, width) * (2 / hidden) ** 0.5)
        self.middle_bias = nn.Parameter(torch.full((width,), 0.1))
        self.out = nn.Parameter(torch.zeros(width, outputs))
        self.out_bias = nn.Parameter(torch.zeros(outputs))
        # As rows of a channel and class each.
        self.table = nn.Parameter(torch.zeros(outputs // OUTPUTS * CLASSES, OUTPUTS))

    def forward(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """Integers [n, inputs], int64 [n, C] -> log odds [n, 4, C]."""
        x = (inputs / UNIT @ self.enter + self.enter_bias).clamp(0, _LARGEST)
        x = (x @ self.middle + self.middle_bias).clamp(0, _LARGEST)
        odds: Tensor = x @ self.out + self.out_bias
        rows = classes + CLASSES * torch.arange(classes.shape[1])
        own = functional.embedding(rows, self.table).transpose(1, 2)
        return odds.view(len(odds), OUTPUTS, -1) + own

    @torch.no_grad()
    def bound(self) -> None:
        """Keep sums of absolute terms in what integers may be: long fits would leave it."""
        weighed = ((self.enter, INPUT_LIMIT), (self.middle, ACTIVATION_LIMIT))
        for weights, largest in (*weighed, (self.out, ACTIVATION_LIMIT * ODDS_UNIT / UNIT)):
            sums = largest * weights.abs().sum(0)
            weights.mul_((_MOST_SUM / sums.clamp_min(1e-9)).clamp(max=1))

    def rounded(self) -> BitNetwork:
        """The integer network, on the finest grids that the exactness bound allows."""
        enter, middle = self.enter.detach(), self.middle.detach()
        largest = torch.full((len(enter),), float(INPUT_LIMIT))
        first = finest(enter[None], largest, self.enter_bias.detach().abs())
        second = finest(middle[None], activations(middle[None]), self.middle_bias.detach().abs())
        out = self.out.detach() * (ODDS_UNIT / UNIT)
        bias = self.out_bias.detach() * (ODDS_UNIT / UNIT)
        third = finest(out[None], activations(out[None]), bias.abs())
        by_channel = self.table.detach().view(-1, CLASSES, OUTPUTS).permute(2, 1, 0)
        table = (by_channel * ODDS_UNIT).round().clamp(-ODDS_LIMIT, ODDS_LIMIT).short().numpy()
        return BitNetwork(
            integers(enter, first),
            biases(self.enter_bias.detach(), first),
            integers(middle, second),
            biases(self.middle_bias.detach(), second),
            integers(out, third),
            biases(bias, third),
            np.array([first, second, third], np.int32),
            np.ascontiguousarray(table),
        )


def bits_of(odds: Tensor, away: Tensor, above: Tensor, *, first: bool) -> Tensor:
    """What rows take, all channels together: float32 [n].

    odds: [n, 4, C]. away, above: as recorded. first: the plane's first depth, at which sizes are
    told too.
    """
    differs, side, more, further = odds.unbind(1)
    is_away = (away > 0).float()
    cost = functional.binary_cross_entropy_with_logits(differs, is_away, reduction="none")
    told = functional.binary_cross_entropy_with_logits(side, above, reduction="none")
    if first:
        larger = (away > 1).float()
        told = told + functional.binary_cross_entropy_with_logits(more, larger, reduction="none")
        steps = functional.softplus(-further) * (away - 2) + functional.softplus(further)
        told = told + larger * steps
    return (cost + is_away * told).sum(1) / math.log(2)


def _fit(seen: Rows, settings: NestedContextsPart, bits: BitsOf) -> BitNetwork:
    """A network of what it saw, by Adam with a cosine schedule."""
    torch.manual_seed(settings.seed)
    inputs, classes = seen[:2]
    network = FloatNetwork(inputs.shape[1], OUTPUTS * classes.shape[1], settings)
    shared = [one for one in network.parameters() if one is not network.table]
    optimiser = torch.optim.Adam(
        [{"params": shared, "times": 1.0}, {"params": [network.table], "times": _TABLE_TIMES}]
    )
    generator = torch.Generator().manual_seed(settings.seed)
    rows = tuple(torch.from_numpy(part) for part in seen)
    for step in range(settings.steps):
        cosine = 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps))
        for group in optimiser.param_groups:
            rate = settings.learning_rate * group["times"]
            group["lr"] = rate * min(1.0, (step + 1) / _WARM_UP) * cosine
        chosen = torch.randint(len(inputs), (settings.batch,), generator=generator)
        here, kinds, far, up = (part[chosen] for part in rows)
        loss = bits(network(here.float(), kinds.long()), far.float(), up.float()).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 100.0)
        optimiser.step()
        network.bound()
    return network.rounded()
