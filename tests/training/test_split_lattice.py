"""Palettes of frequent patterns: they round, and siblings are close."""

from __future__ import annotations

import torch

from training.split.lattice import channel_bits, groups_of, lattice_leaves


def test_frequent_patterns_are_rounded_exactly() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(20_000, 2)
    leaves, counts = lattice_leaves(vectors, 0.8, 8)
    assert leaves.shape == (256, 2)
    assert int(counts.sum()) == len(vectors)
    near = torch.cdist(vectors, leaves).argmin(1)
    # Up to ties, all patterns of 256 that occur are there.
    torch.testing.assert_close(leaves[near], (vectors / 0.8).round() * 0.8)


def test_siblings_are_closer_than_strangers() -> None:
    torch.manual_seed(0)
    leaves, _ = lattice_leaves(3 * torch.randn(50_000, 1), 1.0, 4)
    assert (leaves[1:] >= leaves[:-1]).all()


def test_channels_are_grouped_by_their_bits() -> None:
    torch.manual_seed(0)
    bits = channel_bits(torch.randn(10_000, 4) * torch.tensor([8.0, 1.0, 1.0, 0.1]), 1.0)
    assert bits[0] > 4 > bits[1] > bits[3]
    assert groups_of(bits, 4.2) == [1, 3]
