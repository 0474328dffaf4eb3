"""Parts of the fit step: trees, straight-through colours; CompressAI's models as rivals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.kit.bisect import fit_leaves, heap_of, nearest
from codec.markov_palette.palette import PaletteTree
from codec.markov_palette.train.networks import PlaneLayout, TrainingPalette


def cloud(count: int = 4000) -> torch.Tensor:
    """Correlated, heavy-tailed vectors, as features are."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(count, 4, generator=generator) * torch.tensor([3.0, 2.0, 1.0, 0.5])
    return plain * torch.rand(count, 1, generator=generator) + plain.roll(1, 1) * 0.3


def error_of(vectors: torch.Tensor, centres: torch.Tensor) -> float:
    return float((vectors - centres[nearest(vectors, centres)]).square().sum(1).mean())


def test_bisected_leaves_are_about_as_good_as_plain_k_means() -> None:
    from sklearn.cluster import KMeans

    vectors = cloud()
    leaves, counts = fit_leaves(vectors, 5)
    plain = KMeans(32, n_init=1, random_state=0).fit(vectors.numpy())
    reference = error_of(vectors, torch.from_numpy(plain.cluster_centers_).float())
    assert error_of(vectors, leaves) < 1.2 * reference
    assert int(counts.sum()) == len(vectors)
    assert int((counts > 0).sum()) > 24


def test_siblings_are_near_so_that_coarser_palettes_stay_good() -> None:
    vectors = cloud()
    leaves, counts = fit_leaves(vectors, 5)
    heap = heap_of(leaves, counts)
    shuffled = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    random_tree = heap_of(leaves[shuffled], counts[shuffled])
    for depth in (1, 2, 3, 4):
        nodes = slice(2**depth - 1, 2 ** (depth + 1) - 1)
        assert error_of(vectors, heap[nodes]) < error_of(vectors, random_tree[nodes])


def test_fewer_different_vectors_than_leaves_are_no_problem() -> None:
    vectors = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(50, 1)
    leaves, counts = fit_leaves(vectors, 4)
    assert torch.isfinite(leaves).all()
    assert int(counts.sum()) == 100
    assert error_of(vectors, leaves) < 1e-9


def test_training_and_the_edge_choose_the_same_leaves_by_rate() -> None:
    plane = PlaneLayout("a", 0, 0, 4, 5, (0.2, 0.1, 0.05, 0.02, 0.01))
    palette = TrainingPalette((plane,), ((5,),))
    vectors = cloud()
    palette.rebuild({"a": vectors})
    weights = palette.rate_weights(plane)
    assert weights[0] == pytest.approx(0.2 * float(vectors.var(0, correction=0).sum()))
    leaves = palette.heap(plane)[-32:]
    tree = PaletteTree.from_leaves(leaves.numpy(), palette.counts(plane).numpy(), weights)
    grid = vectors.T.reshape(1, 4, 40, 100)
    colours = palette.leaves(0, grid)[0].flatten(1).T
    same = (leaves[tree.leaf(vectors.numpy())] - colours).abs().amax(1) < 1e-4
    # But for those that lie between two children by less than the integer grid.
    assert float(same.float().mean()) > 0.99


PLANES = (PlaneLayout("a", 0, 0, 4, 3), PlaneLayout("b", 1, 0, 2, 2))
STATES = ((3, 2), (2, 0), (1, 0))


def palette_with(scales: tuple[torch.Tensor, torch.Tensor]) -> TrainingPalette:
    palette = TrainingPalette(PLANES, STATES)
    palette.rebuild(palette.vectors(scales))
    return palette


def test_each_sample_of_a_batch_has_the_colours_of_its_own_state() -> None:
    torch.manual_seed(0)
    scales = (torch.randn(3, 4, 5, 5), torch.randn(3, 2, 10, 10))
    palette = palette_with(scales)
    (semantic, texture), commitment = palette(scales, torch.tensor([0, 1, 2]))
    for sample, (depth, texture_depth) in enumerate(STATES):
        colours = semantic[sample].flatten(1).T.unique(dim=0)
        assert len(colours) <= 2**depth
        assert len(texture[sample].flatten(1).T.unique(dim=0)) <= 2**texture_depth
    assert commitment > 0


def test_a_plane_at_its_root_passes_no_gradient_on() -> None:
    """A colour that does not depend on the vector must not move it: latents would run away."""
    torch.manual_seed(0)
    scales = (torch.randn(1, 4, 5, 5), torch.randn(1, 2, 10, 10))
    palette = palette_with(scales)
    leaves = tuple(scale.clone().requires_grad_() for scale in scales)
    colours, _ = palette(leaves, torch.tensor([2]))
    (colours[0].sum() + colours[1].sum()).backward()
    assert leaves[1].grad is not None
    assert float(leaves[1].grad.abs().max()) == 0
    assert leaves[0].grad is not None
    torch.testing.assert_close(leaves[0].grad, torch.full_like(leaves[0], 1 / 3))


def test_compressai_models_code_real_strings(photos: dict[str, np.ndarray]) -> None:
    """Its published weights need a download; the path is the same with untrained ones."""
    from training.evaluate.baselines import load_model, round_trip

    torch.manual_seed(0)
    model = load_model("bmshj2018-factorized", 1, pretrained=False)
    photo = photos["chelsea"][:70, :90]
    size, decoded = round_trip(model, photo)
    assert decoded.shape == photo.shape
    assert size > 0
