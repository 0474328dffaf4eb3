"""A picture painted from the one before: exactly the whole one, for less work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from codec import PLAIN, Rendering
from codec.areas.boxes import Box, rectangles, widened
from codec.latents import FeatureLatents
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.markov_palette.networks import Decoder, DecoderConfig
from codec.markov_palette.pictures.geometry import Reach
from codec.markov_palette.pictures.repaint import Planner
from codec.markov_palette.pictures.windows import WindowedDecoder, silu
from codec.markov_palette.reconstruct import PictureReconstructor
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def frames(bundle: Bundle, photos: dict[str, np.ndarray]) -> list[list[FeatureLatents]]:
    """Two unlike photos of one size, odd in positions and pixels, each at every state."""
    photo = photos["coffee"][:393, :599]
    codec, encoder = MarkovPaletteCodec(bundle), EdgeEncoder(bundle)
    whole = [encoder.encode(np.ascontiguousarray(one)) for one in (photo, photo[::-1, ::-1])]
    return [[codec.decode(one.truncate(state)) for state in range(5)] for one in whole]


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def mixed(one: FeatureLatents, other: FeatureLatents, *boxes: Box) -> FeatureLatents:
    """``one`` with the values of ``other`` in the boxes, in positions."""

    def mix(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        made = mine.copy()
        ratio = mine.shape[-1] // one.scales["semantic"].shape[-1]
        for box in boxes:
            top, left, bottom, right = box.times(ratio)
            made[..., top:bottom, left:right] = theirs[..., top:bottom, left:right]
        return made

    parts = {
        field: {
            name: mix(array, getattr(other, field)[name])
            for name, array in getattr(one, field).items()
        }
        for field in ("scales", "indices", "depths")
    }
    return dataclasses.replace(one, **parts)


def whole_picture(bundle: Bundle, latents: FeatureLatents, how: Rendering = PLAIN) -> np.ndarray:
    return PictureReconstructor.from_bundle(bundle).reconstruct([latents], how)[0]


CHANGES = (
    (Box(0, 0, 3, 5),),
    (Box(24, 37, 25, 38),),
    (Box(11, 17, 12, 18), Box(20, 0, 25, 2)),
    (Box(0, 0, 25, 38),),
)


def test_a_repainted_picture_is_the_whole_one_bit_for_bit(
    bundle: Bundle, frames: list[list[FeatureLatents]], threads: int
) -> None:
    """A stream of changes: new shapes of windows and known ones, borders, corners, everything."""
    worker = PictureReconstructor.from_bundle(bundle)
    for state in (0, 3):
        one, other = (photo[state] for photo in frames)
        before = (one, worker.reconstruct([one])[0])
        for boxes in CHANGES + CHANGES[:3]:
            latents = mixed(before[0], other if before[0] is one else one, *boxes)
            (picture,) = worker.reconstruct([latents], before=[before])
            np.testing.assert_array_equal(picture, whole_picture(bundle, latents))
            before = (latents, picture)


def test_an_unchanged_picture_is_the_one_before_and_nothing_is_computed(
    bundle: Bundle, frames: list[list[FeatureLatents]]
) -> None:
    latents = frames[0][2]
    marked = np.full((393, 599, 3), 7, np.uint8)
    worker = PictureReconstructor.from_bundle(bundle)
    for how in (PLAIN, Rendering("vivid", 3)):
        (picture,) = worker.reconstruct([latents], how, before=[(latents, marked)])
        np.testing.assert_array_equal(picture, marked)
        assert picture is not marked


def test_another_state_size_or_colour_is_painted_whole(
    bundle: Bundle, frames: list[list[FeatureLatents]]
) -> None:
    latents = frames[0][1]
    marked = np.full((393, 599, 3), 7, np.uint8)
    worker = PictureReconstructor.from_bundle(bundle)
    whole = whole_picture(bundle, latents)
    for before in (
        (frames[0][2], marked),
        (dataclasses.replace(latents, width=598), marked[:, :598]),
        (dataclasses.replace(latents, grey=True), marked),
    ):
        (picture,) = worker.reconstruct([latents], before=[before])
        np.testing.assert_array_equal(picture, whole)


def test_grey_and_sampled_pictures_are_the_whole_ones_too(
    bundle: Bundle, frames: list[list[FeatureLatents]]
) -> None:
    one, other = (dataclasses.replace(photo[3], grey=True) for photo in frames)
    latents = mixed(one, other, Box(2, 3, 5, 9))
    for how in (PLAIN, Rendering("vivid", 8)):
        worker = PictureReconstructor.from_bundle(bundle)
        before = (one, worker.reconstruct([one], how)[0])
        for _ in range(2):
            (picture,) = worker.reconstruct([latents], how, before=[before])
            np.testing.assert_array_equal(picture, whole_picture(bundle, latents, how))
        assert (picture[..., 0] == picture[..., 2]).all()


def test_windows_that_a_device_computes_another_way_are_not_used(
    bundle: Bundle, frames: list[list[FeatureLatents]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a library that has another kernel for another shape."""
    paint = WindowedDecoder.paint

    def other(self: WindowedDecoder, *given: torch.Tensor, wanted: Box) -> torch.Tensor:
        made = paint(self, *given, wanted)
        return made if wanted.cells == 25 * 38 else made + 0.3

    monkeypatch.setattr(
        WindowedDecoder, "paint", lambda self, *given: other(self, *given[:3], wanted=given[3])
    )
    one, two = (photo[0] for photo in frames)
    worker = PictureReconstructor.from_bundle(bundle)
    before = (one, worker.reconstruct([one])[0])
    latents = mixed(one, two, Box(0, 0, 2, 2))
    for _ in range(3):
        (picture,) = worker.reconstruct([latents], before=[before])
        np.testing.assert_array_equal(picture, whole_picture(bundle, latents))


def test_windows_have_the_bits_of_the_whole(bundle: Bundle, threads: int) -> None:
    """Down to one position, at odd sizes, for the networks' layout in the packaged bundle."""
    config = DecoderConfig(16, 12, 3, 24, (40, 32, 24, 32), (2, 3, 2, 1), 8)
    torch.manual_seed(2)
    decoder = Decoder(config).eval()
    torch.nn.init.normal_(decoder.synthesis.leave.weight, std=0.1)
    torch.nn.init.normal_(decoder.restorer.leave_texture.weight, std=0.1)
    windows, state = WindowedDecoder(decoder), torch.tensor([1])
    semantic, texture = torch.randn(1, 16, 23, 21), torch.randn(1, 12, 46, 42)
    grid = Box(0, 0, 23, 21)
    with torch.inference_mode():
        estimates = windows.restore(semantic, texture, state, grid)
        whole = windows.paint(*estimates, state, grid)
        plain = decoder(semantic, texture, state)[0]
        for box in (Box(0, 0, 1, 1), Box(22, 20, 23, 21), Box(9, 3, 14, 21), Box(11, 10, 12, 11)):
            top, left, bottom, right = box
            coarse, fine = windows.restore(semantic, texture, state, box)
            assert torch.equal(coarse, estimates[0][..., top:bottom, left:right])
            top, left, bottom, right = box.times(2)
            assert torch.equal(fine, estimates[1][..., top:bottom, left:right])
            top, left, bottom, right = box.times(16)
            part = windows.paint(*estimates, state, box)
            assert torch.equal(part, whole[..., top:bottom, left:right])
    torch.testing.assert_close(whole, plain, rtol=1e-3, atol=1e-3)


def test_silu_rounds_every_element_alike(threads: int) -> None:
    values = 3 * torch.randn(100_003)
    made = silu(values)
    torch.testing.assert_close(made, torch.nn.functional.silu(values))
    for first, last in ((0, 7), (13, 70_000), (99_990, 100_003)):
        assert torch.equal(silu(values[first:last]), made[first:last])


def test_nothing_beyond_the_reach_is_felt_and_its_border_is() -> None:
    """The packaged layout, in double precision, so that the least influence shows."""
    config = DecoderConfig(4, 3, 2, 8, (16, 12, 8, 8), (2, 3, 2, 1), 8)
    torch.manual_seed(1)
    decoder = Decoder(config).double().eval()
    for leaving in (decoder.restorer.leave_semantic, decoder.restorer.leave_texture):
        torch.nn.init.normal_(leaving.weight, std=0.1)
    torch.nn.init.normal_(decoder.synthesis.leave.weight, std=0.1)
    reach = Reach.of(config).pixels
    assert reach == 17
    semantic = torch.randn(1, 4, 3, 2 * reach + 3, dtype=torch.double)
    texture = torch.randn(1, 3, 6, 4 * reach + 6, dtype=torch.double)
    with torch.inference_mode():
        before = decoder(semantic, texture, torch.tensor([1]))[0]
        semantic[..., 0] += 9
        texture[..., :2] += 9
        after = decoder(semantic, texture, torch.tensor([1]))[0]
    felt = (before != after).any(1).any(1)[0]
    assert not felt[16 * (reach + 1) :].any()
    assert felt[16 * reach : 16 * (reach + 1)].any()


def test_a_tenth_of_a_large_picture_is_less_than_half_of_its_work() -> None:
    planner = Planner(DecoderConfig(16, 12, 9))
    changed = np.zeros((68, 120), bool)
    changed[:22, :37] = True
    plan = planner.plan(changed, estimates_kept=True)
    assert plan.work < 0.5
    assert plan.work < planner.plan(changed, estimates_kept=False).work


def test_rectangles_cover_what_is_marked_without_overlap() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        mask = widened(rng.random((37, 50)) < 0.002, 3)
        covered = np.zeros(mask.shape, int)
        for top, left, bottom, right in rectangles(mask, lambda box: box.cells + 90):
            covered[top:bottom, left:right] += 1
        assert covered.max() <= 1
        assert (covered[mask] == 1).all()
    far = np.zeros((40, 40), bool)
    far[0, 0] = far[-1, -1] = True
    assert len(rectangles(far, lambda box: box.grown(3, Box(0, 0, 40, 40)).cells)) == 2
