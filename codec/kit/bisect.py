"""Bisecting k-means: a complete binary tree of colours, all nodes of a depth split at once.

With rate weights it is entropy-constrained (Chou, Lookabaugh and Gray 1989, node by node): a
vector goes to the child of least ``|z - c|**2 + weight * bits``. What is common gathers around
one colour that costs next to nothing, and what is rare is told apart at the price of its bits;
without the weights every leaf is about as common as any other, and flat areas cost as much as
detail does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fit_leaves(
    vectors: Tensor, depth: int, *, split_steps: int = 5, leaf_steps: int = 4
) -> tuple[Tensor, Tensor]:
    """Leaves of a tree of ``depth`` splits.

    vectors: float32 [n, channels]. Every node is split by 2-means started along its principal
    axis; then the leaves are polished by Lloyd's steps with a full search. Returns leaves
    float32 [2**depth, channels] in tree order (siblings adjacent) and counts int64 [2**depth].
    """
    count = len(vectors)
    member = torch.zeros(count, dtype=torch.long, device=vectors.device)
    centres = vectors.mean(0, keepdim=True)
    for level in range(depth):
        nodes = 2**level
        offsets = vectors - centres[member]
        axis = _principal_axes(offsets, member, nodes)
        side = ((offsets * axis[member]).sum(1) > 0).long()
        for _ in range(split_steps):
            children, sizes = _means(vectors, member * 2 + side, 2 * nodes)
            empty = sizes == 0
            children = torch.where(empty[:, None], centres.repeat_interleave(2, 0), children)
            pairs = children.view(nodes, 2, -1)[member]
            distance = (vectors[:, None] - pairs).square().sum(2)
            side = (distance[:, 1] < distance[:, 0]).long()
        member = member * 2 + side
        means, sizes = _means(vectors, member, 2 * nodes)
        centres = torch.where((sizes == 0)[:, None], centres.repeat_interleave(2, 0), means)
    for _ in range(leaf_steps):
        member = nearest(vectors, centres)
        means, sizes = _means(vectors, member, 2**depth)
        centres = torch.where((sizes == 0)[:, None], centres, means)
    return centres, torch.bincount(nearest(vectors, centres), minlength=2**depth)


def fit_leaves_for_rate(
    vectors: Tensor, rate_weights: Sequence[float], *, split_steps: int = 12
) -> tuple[Tensor, Tensor]:
    """As :func:`fit_leaves`, the splits at every depth weighing bits as ``rate_weights`` say."""
    member = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
    centres = vectors.mean(0, keepdim=True)
    sizes = torch.tensor([len(vectors)], device=vectors.device)
    for level, weight in enumerate(rate_weights):
        nodes = 2**level
        offsets = vectors - centres[member]
        axis = _principal_axes(offsets, member, nodes)
        side = ((offsets * axis[member]).sum(1) > 0).long()
        parents = centres.repeat_interleave(2, 0)
        for _ in range(split_steps):
            means, sizes = _means(vectors, member * 2 + side, 2 * nodes)
            children = torch.where((sizes == 0)[:, None], parents, means)
            side = cheaper_child(vectors, member, children, split_bits(sizes), weight)
        member = member * 2 + side
        means, sizes = _means(vectors, member, 2 * nodes)
        centres = torch.where((sizes == 0)[:, None], parents, means)
    return centres, sizes


def split_bits(sizes: Tensor) -> Tensor:
    """Bits from each node's parent to it, by the counts of a depth's nodes: float32 [nodes].

    Every node has half a vector more than it had.
    """
    pairs = sizes.view(-1, 2).float() + 0.5
    return -torch.log2(pairs / pairs.sum(1, keepdim=True)).flatten()


def cheaper_child(
    vectors: Tensor, member: Tensor, children: Tensor, bits: Tensor, weight: float
) -> Tensor:
    """Which child of its node ``member`` each vector takes: int64 [n], 0 or 1."""
    costs = [
        (vectors - children[child]).square().sum(1) + weight * bits[child]
        for child in (2 * member, 2 * member + 1)
    ]
    return (costs[1] < costs[0]).long()


def heap_of(leaves: Tensor, counts: Tensor) -> Tensor:
    """All nodes in heap order: [2**(depth+1) - 1, channels], parents count-weighted means."""
    means, weights = [leaves], [counts.to(leaves.dtype).clamp_min(1e-6)]
    while len(means[0]) > 1:
        pair = means[0].view(-1, 2, leaves.shape[1])
        weight = weights[0].view(-1, 2, 1)
        means.insert(0, (pair * weight).sum(1) / weight.sum(1))
        weights.insert(0, weight.sum((1, 2)))
    return torch.cat(means)


def nearest(vectors: Tensor, centres: Tensor, *, rows: int = 65536) -> Tensor:
    """Index of the nearest centre for each vector: int64 [n]."""
    half = 0.5 * centres.square().sum(1)
    return torch.cat([(block @ centres.T - half).argmax(1) for block in torch.split(vectors, rows)])


def _means(vectors: Tensor, member: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    sums = vectors.new_zeros(nodes, vectors.shape[1]).index_add_(0, member, vectors)
    sizes = torch.bincount(member, minlength=nodes)
    return sums / sizes.clamp_min(1)[:, None], sizes


def _principal_axes(offsets: Tensor, member: Tensor, nodes: int, steps: int = 4) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(0)
    axis = torch.randn(nodes, offsets.shape[1], generator=generator).to(offsets.device)
    for _ in range(steps):
        projection = (offsets * axis[member]).sum(1, keepdim=True)
        axis = torch.zeros_like(axis).index_add_(0, member, projection * offsets)
        axis = torch.nn.functional.normalize(axis, dim=1)
    return axis
