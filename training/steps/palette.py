"""The palette step: the fitted trees on their integer grid, and what each state costs in error."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from codec.markov_palette.palette import MarkovPalette
from codec.markov_palette.prediction import ScalePrediction
from codec.markov_palette.tree import PaletteTree
from codec.settings import DiffusionState
from training.fit import checkpoint
from training.recipe import Recipe, RecipeError


def palette_from_checkpoint(recipe: Recipe, path: Path) -> MarkovPalette:
    """The checkpoint's trees as a MarkovPalette with the recipe's states.

    Raises RecipeError ``step_missing`` when fit has not run, or not as far as its first trees.
    """
    if not path.exists():
        raise RecipeError("step_missing", f"{path} is missing; run the fit step first")
    tensors = checkpoint.buffers(path, "palette")
    if not bool(tensors["ready"]):
        raise RecipeError("step_missing", "fit has not built its palettes yet; let it run on")
    trees = {}
    for plane in recipe.planes:
        leaves = tensors[f"heap_{plane.name}"].numpy()[-(2**plane.depth) :]
        counts = tensors[f"counts_{plane.name}"].numpy()
        variance = float(tensors[f"variance_{plane.name}"])
        weights = [share * variance for share in plane.rate_weights]
        trees[plane.name] = PaletteTree.from_leaves(leaves, counts, weights)
    states = [
        DiffusionState(state=number, depths=depths, typical_bits_per_pixel=0.0)
        for number, depths in enumerate(recipe.states)
    ]
    return MarkovPalette(recipe.plane_specs, trees, states, {"texture": _prediction(path)})


def _prediction(path: Path) -> ScalePrediction:
    weights = checkpoint.averaged(path, "extractor")
    weight, bias = weights["prediction.weights.weight"], weights["prediction.weights.bias"]
    return ScalePrediction("texture", "semantic", weight.float().numpy(), bias.float().numpy())


def merge_costs(palette: MarkovPalette) -> dict[str, list[float]]:
    """Ward's cost of merging each depth into the one above, summed, per leaf count; by plane."""
    costs = {}
    for plane in palette.planes:
        tree = palette.trees[plane.name]
        total = max(1.0, float(tree.counts.sum()))
        costs[plane.name] = [
            float(np.sum(tree.merge_cost(depth)) / total) for depth in range(plane.depth, 0, -1)
        ]
    return costs
