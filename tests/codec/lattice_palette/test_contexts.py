"""Context networks of lattices: exact on every machine, better than none, refused when forged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.entropy import symbol_encoder
from codec.lattice_palette.contexts import (
    MEAN_UNIT,
    SCALE_FIRST,
    SCALE_STEPS,
    LatticeContexts,
    symbol_tables,
)
from codec.lattice_palette.palette import LatticePalette
from codec.lattice_palette.train.contexts import logistic_bits
from shared.bitstream import FORMAT_VERSION
from shared.errors import BundleError
from tests.support.lattice_bundle import SCALE, SETTINGS, fields, make_contexts


@pytest.fixture(scope="module")
def chains() -> list[LatticeContexts]:
    return make_contexts()


def coded_bytes(contexts: LatticeContexts, seed: int) -> int:
    values = contexts.palette.quantise({SCALE: fields(12, 16, seed)})
    picture = contexts.open({spec.name: (12, 16) for spec in contexts.palette.specs})
    encoder = symbol_encoder(FORMAT_VERSION, contexts.tables)
    for state in range(contexts.palette.coarsest_state, contexts.palette.finest_state - 1, -1):
        for step in contexts.palette.passes(state):
            tables = picture.tables(step)
            symbols = picture.symbols(step, picture.of_pass(step, values[step.plane]))
            picture.advance(step, symbols)
            encoder.encode(symbols, tables)
    return len(encoder.payload())


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 2), (12, 16)])
def test_float32_and_integers_give_the_same_tables(
    chains: list[LatticeContexts], shape: tuple[int, int]
) -> None:
    for contexts in chains:
        palette = contexts.palette
        values = palette.quantise({SCALE: fields(*shape, 7)})
        grids = {spec.name: shape for spec in palette.specs}
        kinds = (np.float32, np.float64, np.int64)
        pictures = [contexts.open(grids, kind) for kind in kinds]
        for state in range(palette.coarsest_state, palette.finest_state - 1, -1):
            for step in palette.passes(state):
                first, *others = [picture.tables(step) for picture in pictures]
                for other in others:
                    np.testing.assert_array_equal(first, other)
                for picture in pictures:
                    picture.advance(
                        step, picture.symbols(step, picture.of_pass(step, values[step.plane]))
                    )
        for picture in pictures:
            for name, grid in picture.values().items():
                np.testing.assert_array_equal(grid, values[name])
            assert all(known.all() for known in picture.known().values())


def test_contexts_save_bytes_on_grids_that_they_never_saw(chains: list[LatticeContexts]) -> None:
    static = make_contexts(SETTINGS.model_copy(update={"steps": 0}))
    for with_contexts, without in zip(chains, static, strict=True):
        ours = sum(coded_bytes(with_contexts, seed) for seed in range(8))
        theirs = sum(coded_bytes(without, seed) for seed in range(8))
        assert ours < 0.95 * theirs


def test_passes_out_of_order_are_refused(chains: list[LatticeContexts]) -> None:
    contexts = chains[0]
    picture = contexts.open({spec.name: (4, 4) for spec in contexts.palette.specs})
    first, second = contexts.palette.passes(contexts.palette.coarsest_state)[:2]
    with pytest.raises(ValueError, match="comes not after"):
        picture.tables(second)
    with pytest.raises(ValueError, match="before its tables"):
        picture.advance(first, np.zeros(1, np.int32))


def test_tables_are_the_logistic_distributions_that_networks_are_fitted_to() -> None:
    limit = 20
    tables = symbol_tables(limit)
    chance = tables / tables.sum(1, keepdims=True)
    for scale, part in ((10, 0), (18, 3), (24, 7)):
        symbols = torch.arange(-6.0, 7)
        mean = torch.full_like(symbols, part / MEAN_UNIT - 0.5)
        logs = torch.full_like(symbols, SCALE_FIRST + scale / SCALE_STEPS)
        wanted = logistic_bits(symbols, mean, logs).numpy()
        row = chance[scale * MEAN_UNIT + part, 2 * limit - 6 : 2 * limit + 7]
        likely = wanted < 12
        np.testing.assert_allclose(-np.log2(row[likely]), wanted[likely], atol=0.05)


def refuse(palette: LatticePalette, arrays: dict[str, np.ndarray]) -> str:
    with pytest.raises(BundleError) as refused:
        LatticeContexts.from_arrays(palette, arrays)
    assert refused.value.reason == "bad_contexts"
    return refused.value.message


def test_a_model_comes_back_from_its_arrays(chains: list[LatticeContexts]) -> None:
    for contexts in chains:
        arrays = contexts.to_arrays()
        again = LatticeContexts.from_arrays(contexts.palette, arrays).to_arrays()
        assert list(again) == list(arrays)
        for name, values in arrays.items():
            np.testing.assert_array_equal(again[name], values)


def test_every_array_is_needed(chains: list[LatticeContexts]) -> None:
    arrays = chains[0].to_arrays()
    for name in arrays:
        assert name in refuse(chains[0].palette, {k: v for k, v in arrays.items() if k != name})


@pytest.mark.parametrize("damage", ["dtype", "cut", "axis", "long"])
def test_every_array_is_checked(chains: list[LatticeContexts], damage: str) -> None:
    arrays = chains[0].to_arrays()
    for name, value in arrays.items():
        if not value.size:
            continue
        changed = {
            "dtype": value.astype(np.float32),
            "cut": value[:-1],
            "axis": value[None],
            "long": np.concatenate([value, value]),
        }[damage]
        if name == "lattice.tables" and damage in ("long", "cut"):
            changed = changed[:-1]  # no whole number of scales
        refuse(chains[0].palette, arrays | {name: changed})


@pytest.mark.parametrize(
    ("name", "value"),
    [("past", 32767), ("own", 32767), ("middle", -32768), ("out", 32767), ("bias", 2**24)],
)
def test_sums_that_float32_cannot_hold_are_refused(
    chains: list[LatticeContexts], name: str, value: int
) -> None:
    arrays = chains[0].to_arrays()
    forged = np.full_like(arrays[f"{SCALE}.0.2.{name}"], value)
    message = refuse(chains[0].palette, arrays | {f"{SCALE}.0.2.{name}": forged})
    assert "exact on every machine" in message


def test_tables_that_are_no_distributions_are_refused(chains: list[LatticeContexts]) -> None:
    arrays = chains[0].to_arrays()
    for spot, value in ((0, 0), (5, -3), (7, 2**20)):
        forged = arrays["lattice.tables"].copy()
        forged[3, spot] = value
        refuse(chains[0].palette, arrays | {"lattice.tables": forged})
