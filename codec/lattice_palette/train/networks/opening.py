"""The networks that can be cut in two, by the name that a recipe gives."""

from __future__ import annotations

from collections.abc import Callable

from codec.kit.losses.frozen import CLASSIFIER
from codec.lattice_palette.train.networks.base import SplitNetwork
from codec.lattice_palette.train.networks.efficientnet import SplitEfficientNet
from codec.lattice_palette.train.networks.ssd import WEIGHTS as SSD
from codec.lattice_palette.train.networks.ssd import SplitSsd
from codec.lattice_palette.train.recipe import CutPart, SplitRecipe
from shared.errors import RecipeError
from shared.weights import ModelStore

NETWORKS: dict[str, Callable[[ModelStore], SplitNetwork]] = {
    SSD: SplitSsd,
    CLASSIFIER.model: SplitEfficientNet,
}
"""Networks whose cut is fixed; besides these, files that Ultralytics reads."""

YOLO_SUFFIXES = (".pt", ".yaml")


def open_network(recipe: SplitRecipe) -> SplitNetwork:
    """The recipe's network. Raises RecipeError ``bad_recipe`` and what the network raises,
    ModelError for missing weights."""
    store = ModelStore()
    if recipe.network.endswith(YOLO_SUFFIXES):
        from codec.lattice_palette.train.networks.yolo import SplitYolo

        cut = recipe.cut or CutPart()
        return SplitYolo(
            store,
            recipe.network,
            side=cut.side,
            at=None if cut.at == "auto" else cut.at,
            most_on_edge=cut.edge_share,
        )
    if recipe.cut is not None:
        raise RecipeError("bad_recipe", f"the cut of {recipe.network} is fixed")
    if recipe.network not in NETWORKS:
        known = ", ".join(sorted(NETWORKS))
        raise RecipeError(
            "bad_recipe",
            f"no network {recipe.network!r}; there is: {known}, and files of YOLO (.pt)",
        )
    return NETWORKS[recipe.network](store)
