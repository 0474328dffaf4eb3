"""Networks of predicted frames: they start as those of key frames, and save on what moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codec.base import open_cloud, open_edge, small_bundle
from codec.kit.recipe import open_recipe
from codec.markov_palette.context_network import MATE_STEPS, padded_channels
from codec.markov_palette.contexts import ContextModel
from codec.markov_palette.temporal.assignment import FollowingLeaves
from codec.markov_palette.temporal.contexts import Pass, TemporalModel
from codec.markov_palette.train.contexts import FloatNetwork, fit_contexts
from codec.markov_palette.train.temporal.fit import (
    _STATUS_TREE,
    TemporalSettings,
    _start,
    fit_temporal,
)
from codec.markov_palette.train.temporal.steps import write_sequences, write_temporal
from codec.markov_palette.train.temporal.transitions import (
    Transition,
    plain_temporal,
    transitions,
)
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import RecipeError
from shared.targets import RateTarget
from tests.support.contract import picture
from tests.support.smooth_fields import SMALL, photos, smooth

QUICK = TemporalSettings(steps=60, batch=512, change_steps=150, change_batch=2048, seed=3)


@pytest.fixture(scope="module")
def contexts() -> ContextModel:
    palette, made = photos(12, seed=3)
    return fit_contexts(palette, made, SMALL)


def pieces(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Smooth fields of which a window changes from frame to frame."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        frames: dict[str, list[np.ndarray]] = {"semantic": [], "texture": []}
        here = smooth(rng, 8, 18, 15)
        for number in range(4):
            other = smooth(rng, 8, 18, 15)
            here = here.copy()
            top = 3 * number
            here[:, top : top + 6, 4:11] = other[:, top : top + 6, 4:11]
            frames["semantic"].append(here.astype(np.float32))
            frames["texture"].append((0.8 * here[:3].repeat(2, 1).repeat(2, 2)).astype(np.float32))
        found.append({name: np.stack(grids) for name, grids in frames.items()})
    return found


def bits(model: TemporalModel, moves: list[Transition]) -> float:
    """Ideal code length of all that is told."""
    spent, palette = 0.0, model.palette
    for move in moves:
        shapes = {name: grid.shape for name, grid in move.after.items()}
        run = model.open(shapes, palette.merge(move.before, 0, move.state), move.state)
        source = FollowingLeaves(model, move.after)
        for state in range(palette.coarsest_state, move.state - 1, -1):

            def exchange(models: np.ndarray, state: int = state) -> np.ndarray:
                nonlocal spent
                told = source(state, run, None, models)  # noqa: B023
                chance = models / 65536
                spent -= float(np.log2(np.where(told == 1, chance, 1 - chance)).sum())
                return told

            for step in palette.passes(state):
                assert isinstance(step, Pass)
                run.run(state, step, exchange)
    return spent


def test_networks_start_as_those_of_key_frames(contexts: ContextModel) -> None:
    for name, key in contexts.networks.items():
        tree = contexts.palette.trees[name]
        mates = tuple(contexts.palette.trees[mate] for mate in contexts.mates[name])
        columns = sum(padded_channels(mate.channels) for mate in mates)
        network = FloatNetwork(
            tree,
            (*mates, tree, _STATUS_TREE),
            tuple(contexts.palette.trees[other] for other in contexts.coarser[name]),
            hidden=key.entry.shape[1],
            width=key.readout.shape[1],
            trunk=1 if key.trunk is None else key.trunk.weights.shape[1],
            features=key.features,
            ratio=max(1, key.ratio()),
            prior=torch.zeros(len(key.prior)),
        )
        _start(network, key, columns)
        again = network.rounded()
        for field in ("own", "place", "entry", "summary", "readout", "prior", "shifts"):
            np.testing.assert_array_equal(getattr(again, field), getattr(key, field))
        seen = again.mates.reshape(len(key.own), len(MATE_STEPS), -1, key.entry.shape[1])
        assert not seen[:, :, columns:].any()


def test_they_save_on_streams_that_they_were_not_fitted_to(contexts: ContextModel) -> None:
    plain = plain_temporal(contexts)
    moves = transitions(plain, pieces(10, seed=1), (0, 2), seed=1)
    held_out = transitions(plain, pieces(3, seed=2), (0,), seed=1)
    short = TemporalSettings(**{**QUICK.__dict__, "steps": 1, "change_steps": 1})
    unfitted = bits(fit_temporal(contexts, plain, moves, short), held_out)
    assert bits(fit_temporal(contexts, plain, moves, QUICK), held_out) < 0.8 * unfitted


def test_the_steps_make_a_bundle_that_predicts(tmp_path: Path) -> None:
    bundle = small_bundle("markov-palette", tmp_path / "small")
    for clip in ("clips/a", "clips/b"):
        (tmp_path / clip).mkdir(parents=True)
        for number in range(4):
            frame = picture(96, 80, seed=1)
            frame[20:50, 8 * number : 8 * number + 30] = 255
            Image.fromarray(frame).save(tmp_path / clip / f"{number}.png")
    quick = ["sequences.frames=4", "sequences.photos=0", "temporal.steps=3", "version='9'"]
    quick += ["temporal.change_steps=3"]
    quick += ["sequences.sources=[{path: clips/a}, {path: clips/b}]"]
    _, recipe = open_recipe("picture", quick)
    folder, run = tmp_path / "small", tmp_path / "run"
    report = lambda done, of, figures: None  # noqa: E731
    with pytest.raises(RecipeError) as refused:
        write_temporal(recipe, run, report, bundle=folder, output=tmp_path / "new")
    assert refused.value.reason == "step_missing"
    assert write_sequences(recipe, run, report, data=tmp_path, bundle=folder)["frames"] == 8
    made = write_temporal(recipe, run, report, bundle=folder, output=tmp_path / "new")
    assert made["transitions"] == 3
    assert len(made["held_out_bytes"]["predicted"]) == 5
    new = Bundle.load(tmp_path / "new")
    assert (new.id, new.manifest.version) == (made["id"], "9")
    assert new.id != bundle.id
    edge = open_edge(new)
    key = edge.encode(frame)
    still = edge.encode(frame, RateTarget(state=0), reference=edge.decode(key))
    assert still.reference is not None
    assert (
        open_cloud(bundle)
        .decode(Bitstream.from_bytes(open_edge(bundle).encode(frame).to_bytes()))
        .checksum()
        == edge.decode(key).checksum()
    )
