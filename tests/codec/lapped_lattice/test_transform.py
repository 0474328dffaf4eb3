"""The transform: exact at every size, mirrored at edges, alike in torch, ONNX and the decoder."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from codec.lapped_lattice.networks import STRIDE, DecoderConfig, Edges, LappedDecoder, mirrored
from codec.lapped_lattice.train.basis import Basis, best_basis, dct, lapped, read_basis, unit_gains
from codec.lapped_lattice.train.extractor_onnx import analysis_onnx
from codec.lapped_lattice.train.fit import of_parity, start_linear
from codec.lapped_lattice.train.networks import Analysis
from tests.support.contract import picture

ALL = 3 * STRIDE**2


@pytest.fixture(scope="module")
def whole() -> tuple[Analysis, LappedDecoder, Basis]:
    """The linear codec of all channels."""
    basis = best_basis([picture(64, 48)], ALL, 1.3)
    analysis = Analysis(basis.counts, 4, 0)
    decoder = LappedDecoder(DecoderConfig(ALL, 2, 8, 1, 6, 1, 2))
    start_linear(analysis, decoder, basis)
    return analysis, decoder, basis


def as_batch(width: int, height: int, seed: int = 0) -> Tensor:
    shown = torch.from_numpy(picture(width, height, seed))
    return shown.permute(2, 0, 1)[None].float() / 255 - 0.5


def coding_gain(analysis: np.ndarray, synthesis: np.ndarray) -> float:  # type: ignore[type-arg]
    """Decibels for a first-order process of correlation 0.95 (Jayant and Noll 1984)."""
    taps = np.arange(analysis.shape[1])
    correlation = 0.95 ** np.abs(taps[:, None] - taps)
    variances = np.einsum("ij,jk,ik->i", analysis, correlation, analysis)
    return float(-10 * np.log10(variances * np.square(synthesis).sum(1)).mean())


def test_the_lapped_transform_gains_more_than_the_cosine_transform() -> None:
    analysis, synthesis = lapped(STRIDE)
    cosines = dct(STRIDE)
    assert coding_gain(cosines, cosines) == pytest.approx(9.46, abs=0.01)
    assert coding_gain(analysis, synthesis) == pytest.approx(9.93, abs=0.01)


@pytest.mark.parametrize("sides", [(16, 16), (32, 48), (96, 16)])
def test_all_channels_give_back_the_picture_to_its_edges(
    whole: tuple[Analysis, LappedDecoder, Basis], sides: tuple[int, int]
) -> None:
    analysis, decoder, _ = whole
    shown = as_batch(*sides)
    with torch.no_grad():
        made = decoder.linear(analysis(shown))
    assert float((made - shown).abs().max()) < 1e-5


def test_a_unit_of_error_costs_the_same_in_every_channel_of_a_colour(
    whole: tuple[Analysis, LappedDecoder, Basis],
) -> None:
    _, decoder, basis = whole
    with torch.no_grad():
        costs = []
        for row in (0, 5, 100, ALL - 1):
            values = torch.zeros(1, ALL, 5, 5)
            values[0, row, 2, 2] = 1
            costs.append(float(decoder.linear(values).square().sum()))
    weights = [3 if basis.channels[row].colour == 0 else 3 * 1.3**2 for row in (0, 5, 100, ALL - 1)]
    np.testing.assert_allclose(costs, weights, rtol=1e-4)
    assert unit_gains(STRIDE, 1.0).min() > 0


def test_an_untrained_decoder_is_the_linear_one(
    whole: tuple[Analysis, LappedDecoder, Basis],
) -> None:
    analysis, decoder, _ = whole
    with torch.no_grad():
        values = analysis(as_batch(48, 32)) + 0.01
        for state in (0, 1):
            made = decoder(values, torch.tensor([state]))
            torch.testing.assert_close(made, decoder.linear(values), rtol=0, atol=0)


def test_inner_sides_are_not_mirrored() -> None:
    values, parity = torch.ones(1, 2, 3, 4), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    made = mirrored(values, parity, Edges(top=False, left=True, bottom=True, right=False))
    assert made.shape == (1, 2, 5, 6)
    assert made[0, :, 0].abs().max() == 0
    assert made[0, :, :, -1].abs().max() == 0
    assert made[0, :, 2, 0].tolist() == [-1, 1]
    assert made[0, :, -1, 2].tolist() == [1, -1]


def test_a_basis_is_what_its_file_says(whole: tuple[Analysis, LappedDecoder, Basis]) -> None:
    basis = whole[2]
    again = read_basis(basis.to_arrays())
    for field in dataclasses.fields(Basis):
        np.testing.assert_array_equal(getattr(basis, field.name), getattr(again, field.name))
    kept = best_basis([picture(64, 48)], 20, 1.3)
    assert kept.channels == basis.channels[:20]
    assert (np.diff(kept.deviations) <= 0).all()
    with pytest.raises(ValueError, match="at least one photo"):
        best_basis([], 20, 1.3)


def test_kernels_are_brought_back_to_their_parity(
    whole: tuple[Analysis, LappedDecoder, Basis],
) -> None:
    _, decoder, _ = whole
    kernel, parity = decoder.synthesis.detach(), decoder.parity
    torch.testing.assert_close(of_parity(kernel, parity), kernel, rtol=0, atol=1e-6)
    off = kernel + 0.1 * of_parity(torch.rand_like(kernel), -parity)
    torch.testing.assert_close(of_parity(off, parity), kernel, rtol=0, atol=1e-5)


@pytest.mark.parametrize("blocks", [0, 2])
def test_the_exported_analysis_is_the_trained_one(blocks: int) -> None:
    basis = best_basis([picture(64, 48)], 24, 1.3)
    torch.manual_seed(1)
    analysis = Analysis(basis.counts, 6, blocks)
    start_linear(analysis, LappedDecoder(DecoderConfig(24, 2, 8, 1, 6, 1, 2)), basis)
    for last in analysis.outer:
        assert isinstance(last, torch.nn.Conv2d)
        assert last.bias is not None
        torch.nn.init.normal_(last.weight, std=0.1)
        torch.nn.init.normal_(last.bias, std=0.1)
    session = ort.InferenceSession(analysis_onnx(analysis, "values"))
    for sides in ((16, 16), (80, 48)):
        (found,) = session.run(None, {"image": picture(*sides)})
        with torch.no_grad():
            expected = analysis(as_batch(*sides))[0].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)
