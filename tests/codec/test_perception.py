"""The LPIPS-like distance, and statistics of textures beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from codec.kit.losses.perception import perceptual_distance
from shared.weights import ModelStore
from tests.support.real_store import fetched

SIDE = 128


def grass(seed: int, strength: float) -> Tensor:
    """A texture of one kind: [1, 3, SIDE, SIDE]."""
    noise = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    shown = functional.avg_pool2d(noise, 3, 1, 1, count_include_pad=False) * strength
    return shown.expand(1, 3, SIDE, SIDE).clamp(-0.5, 0.5)


def test_texture_of_the_same_kind_is_better_than_none_by_its_statistics() -> None:
    fetched("squeezenet-1.1", "lpips-squeeze")
    distance = perceptual_distance(ModelStore())
    photo, same_kind = grass(1, 0.3), grass(2, 0.3)
    smooth, too_much = torch.zeros_like(photo), grass(2, 0.9)
    with torch.no_grad():
        itself, of_it = distance.with_textures(photo, photo)
        assert float(itself) == pytest.approx(0, abs=1e-6)
        assert float(of_it) == pytest.approx(0, abs=1e-5)
        found = {}
        for name, one in (("same", same_kind), ("none", smooth), ("much", too_much)):
            lpips, textures = distance.with_textures(one, photo)
            torch.testing.assert_close(lpips, distance(one, photo))
            found[name] = float(textures)
    assert 0 < found["same"] < 0.3 * found["none"]
    assert found["same"] < 0.5 * found["much"]
    assert max(found.values()) <= 1


def test_both_have_a_gradient_where_nothing_varies() -> None:
    fetched("squeezenet-1.1", "lpips-squeeze")
    store = ModelStore()
    still = torch.zeros(2, 3, 64, 64, requires_grad=True)
    parts = perceptual_distance(store).with_textures(
        still, grass(3, 0.3)[..., :64, :64].expand(2, -1, -1, -1)
    )
    torch.stack([part.sum() for part in parts]).sum().backward()  # type: ignore[no-untyped-call]
    assert still.grad is not None
    assert bool(torch.isfinite(still.grad).all())
    assert float(still.grad.abs().max()) > 0
