"""Where a network can be cut: what must cross, what it costs, what is refused."""

from __future__ import annotations

import pytest

from codec.lattice_palette.train.networks.cuts import LayerFacts, cheapest_cut, cut_after, find_cuts
from shared.errors import RecipeError

# 0 -> 1 -> 2 -> 3 (reads 2 and, over a bridge, 0) -> 4 (reads 3 and the picture) -> 5
LAYERS = [
    LayerFacts((-1,), (8, 16, 16), 10),
    LayerFacts((0,), (4, 8, 8), 20),
    LayerFacts((1,), (4, 8, 8), 30),
    LayerFacts((2, 0), (16, 8, 8), 40),
    LayerFacts((3,), (2, 4, 4), 50),
    LayerFacts((4,), None, 50),
]


def test_everything_that_is_read_later_crosses_and_counts():
    cuts = find_cuts(LAYERS)
    assert [(cut.after, cut.crossing) for cut in cuts] == [
        (0, (0,)), (1, (0, 1)), (2, (0, 2)), (3, (3,)), (4, (4,)),
    ]  # fmt: skip
    assert [cut.values for cut in cuts] == [2048, 2304, 2304, 1024, 32]
    assert cuts[2].edge_share == pytest.approx(60 / 200)


def test_the_cheapest_cut_that_is_not_too_deep_is_taken():
    cuts = find_cuts(LAYERS)
    assert cheapest_cut(cuts, 1.0).after == 4
    assert cheapest_cut(cuts, 0.5).after == 3
    assert cheapest_cut(cuts, 0.4).after == 0
    assert cut_after(cuts, 2).crossing == (0, 2)


def test_a_network_that_reads_the_picture_late_can_only_be_cut_behind_that():
    layers = [*LAYERS[:4], LayerFacts((3, -1), (2, 4, 4), 50), LAYERS[5]]
    assert [cut.after for cut in find_cuts(layers)] == [4]


def test_what_is_no_grid_does_not_cross():
    layers = [LAYERS[0], LayerFacts((0,), None, 20), LayerFacts((1,), (4, 8, 8), 30), LAYERS[4]]
    assert [cut.after for cut in find_cuts(layers)] == [0, 2]


@pytest.mark.parametrize(("share", "after"), [(0.01, None), (None, 5), (None, 99)])
def test_a_cut_that_is_not_there_is_refused(share: float | None, after: int | None):
    cuts = find_cuts(LAYERS)
    with pytest.raises(RecipeError) as caught:
        cheapest_cut(cuts, share) if share is not None else cut_after(cuts, after or 0)
    assert caught.value.reason == "no_cut"
