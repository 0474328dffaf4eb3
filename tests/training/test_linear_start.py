"""Training starts from the best linear codec, and its optimiser keeps matrices orthogonal."""

from __future__ import annotations

import numpy as np
import torch

from codec.kit.optimiser import Muon, orthogonalise
from codec.markov_palette.networks import Decoder, DecoderConfig
from codec.markov_palette.train.networks import (
    Extractor,
    ExtractorConfig,
    PlaneLayout,
    TrainingPalette,
)
from codec.markov_palette.train.start import initialise_linear

PLANES = (
    PlaneLayout("s", 0, 0, 8, 7),
    PlaneLayout("t", 1, 0, 6, 7),
)


def pictures(photos: dict[str, np.ndarray]) -> torch.Tensor:
    crops = [
        photo[top : top + 64, left : left + 64]
        for photo in photos.values()
        for top in range(0, photo.shape[0] - 64, 64)
        for left in range(0, photo.shape[1] - 64, 64)
    ]
    stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    return stacked.float() / 255 - 0.5


def test_before_the_first_step_the_codec_already_shows_the_picture(
    photos: dict[str, np.ndarray],
) -> None:
    torch.manual_seed(0)
    extractor = Extractor(ExtractorConfig(8, 6, (8, 12, 16), 1))
    decoder = Decoder(DecoderConfig(8, 6, 2, 8, (16, 12, 8), (1, 1, 1), 8))
    palette = TrainingPalette(PLANES, ((7, 7), (7, 0)))
    batch = pictures(photos)
    initialise_linear(extractor, decoder, palette, batch)
    errors = []
    with torch.no_grad():
        semantic, texture = extractor(batch)
        texture = texture - extractor.prediction(palette.leaves(0, semantic))
        for state in (0, 1):
            states = torch.full((len(batch),), state)
            colours, _ = palette((semantic, texture), states)
            restored, _ = decoder(*colours, states)
            errors.append(float((restored - batch).square().mean()))
    flat = float((batch - batch.mean((2, 3), keepdim=True)).square().mean())
    assert errors[0] < 0.8 * errors[1]
    assert errors[1] < 0.5 * flat


def test_orthogonal_updates_have_nearly_equal_singular_values() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((48, 20), (20, 48)):
        matrix = torch.randn(shape, generator=generator) @ torch.diag(
            torch.logspace(0, -2, shape[1])
        )
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert float(values.max()) < 1.35
        assert float(values.min()) > 0.4


def test_muon_fits_and_resumes_where_it_was() -> None:
    def network() -> torch.nn.Module:
        torch.manual_seed(1)
        return torch.nn.Sequential(
            torch.nn.Linear(24, 32), torch.nn.ReLU(), torch.nn.Linear(32, 24)
        )

    inputs = torch.randn(64, 24, generator=torch.Generator().manual_seed(2))

    def run(module: torch.nn.Module, optimiser: Muon, steps: int) -> float:
        for group in optimiser.param_groups:
            group["lr"] = 1e-2
        for _ in range(steps):
            loss = (module(inputs) - inputs.flip(1)).square().mean()
            module.zero_grad()
            loss.backward()
            optimiser.step()
        return float(loss)

    module = network()
    optimiser = Muon([module])
    first = run(module, optimiser, 1)
    whole = run(module, optimiser, 80)
    assert whole < 0.3 * first

    halved = network()
    before = Muon([halved])
    run(halved, before, 41)
    again = network()
    again.load_state_dict(halved.state_dict())
    after = Muon([again])
    after.load_state_dict(before.state_dict())
    assert run(again, after, 40) == whole
