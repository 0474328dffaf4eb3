"""Pseudo-labels of textures, their look-up for crops, and the loss that uses them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from codec.kit.crops import Crop, PhotoCache, batches, random_crop
from codec.kit.losses.textures import (
    LABELS_FILE,
    NO_LABEL,
    PatchDescriptors,
    PatchGrid,
    TextureLabels,
    TextureModel,
    TextureSettings,
    as_picture,
    labelled_batches,
    make_labels,
    principal_axes,
    texture_contrast,
)
from codec.kit.photos import PhotoSource, make_cache
from shared.errors import RecipeError
from tests.support.real_store import fetched
from training.cli import build_app

SETTINGS = TextureSettings(depth=3, components=8, sample_photos=6, patches_per_photo=64)


@pytest.fixture(scope="module")
def backbone() -> dict[str, torch.Tensor]:
    return load_file(fetched("efficientnet-lite0").path("efficientnet-lite0"))


@pytest.fixture(scope="module")
def cache(photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real photos, and one that is smaller than a patch."""
    folder = tmp_path_factory.mktemp("photos")
    for name, photo in photos.items():
        Image.fromarray(photo).save(folder / f"{name}.png", compress_level=1)
    Image.fromarray(photos["coffee"][:48, :90]).save(folder / "a-small.png")
    cache = folder / "cache"
    make_cache([PhotoSource(folder)], [], cache, short_side=256)
    return cache


@pytest.fixture(scope="module")
def labelled(cache: Path, backbone: dict[str, torch.Tensor]) -> dict[str, object]:
    return make_labels(cache, backbone, SETTINGS, seed=3)


def test_every_patch_of_every_photo_has_a_label(cache: Path, labelled: dict[str, object]) -> None:
    labels, photos = TextureLabels(cache), PhotoCache(cache)
    assert labelled["photos"] == len(photos) - 1
    assert labelled["textures"] == labels.textures == 8
    assert 0.2 < float(str(labelled["explained"])) < 1
    for number in range(len(photos)):
        found = labels.photo(number)
        assert found.shape == labels.grid.shape(*photos[number].shape[:2])
        assert ((found >= 0) & (found < 8)).all()
    assert labels.photo(0).size == 0


def test_labels_are_the_same_on_a_second_run(
    cache: Path, labelled: dict[str, object], backbone: dict[str, torch.Tensor]
) -> None:
    assert make_labels(cache, backbone, SETTINGS, seed=3) == labelled


def test_labels_of_other_photos_are_refused(
    cache: Path, labelled: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / LABELS_FILE).write_bytes((cache / LABELS_FILE).read_bytes())
    index = json.loads((cache / "photos.json").read_text())
    index["photos"].reverse()
    (tmp_path / "photos.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="run the texture step"):
        TextureLabels(tmp_path)


def test_the_written_model_labels_a_photo_as_the_step_did(
    cache: Path, labelled: dict[str, object], backbone: dict[str, torch.Tensor]
) -> None:
    with np.load(cache / LABELS_FILE, allow_pickle=False) as file:
        model = TextureModel.from_arrays(file)
    describe = PatchDescriptors(backbone, model.grid)
    again = model.labels(describe(as_picture(PhotoCache(cache)[2])))
    np.testing.assert_array_equal(again, TextureLabels(cache).photo(2).ravel())


def test_a_mirrored_or_shifted_picture_keeps_its_descriptors_better_than_another_has_them(
    photos: dict[str, np.ndarray], backbone: dict[str, torch.Tensor]
) -> None:
    describe = PatchDescriptors(backbone, PatchGrid(64, 64))
    wall, cat = photos["china"][:192, :192], photos["chelsea"][100:292, 100:292]

    def descriptor(pixels: np.ndarray) -> torch.Tensor:
        return torch.cat([stage.mean(0) for stage in describe(as_picture(pixels))])

    def apart(first: np.ndarray, second: np.ndarray) -> float:
        return float((descriptor(first) - descriptor(second)).norm())

    other = apart(cat, wall)
    assert apart(cat, cat[:, ::-1]) < 0.6 * other
    assert apart(cat, np.roll(cat, (16, 16), (0, 1))) < 0.6 * other


def test_one_quadrant_of_magnitudes_is_shift_and_mirror_invariant() -> None:
    from codec.kit.losses.textures import _magnitudes

    patch = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = _magnitudes(patch)
    assert expected.shape == (5, 5, 5)
    for same in (patch.roll((3, 2), (1, 2)), patch.flip(2), patch.flip(1), patch.flip((1, 2))):
        torch.testing.assert_close(_magnitudes(same), expected, rtol=1e-4, atol=1e-5)


def test_axes_give_stages_one_weight_and_do_not_depend_on_units() -> None:
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(500, 3, generator=generator) @ torch.randn(3, 20, generator=generator)
    sample = sample + 0.05 * torch.randn(500, 20, generator=generator)
    mean, axes = principal_axes(sample, 3)
    projected = (sample - mean) @ axes
    assert float(projected.var(0).sum()) == pytest.approx(1, rel=0.02)
    units = torch.linspace(0.1, 30, 20)
    other_mean, other_axes = principal_axes(sample * units, 3)
    torch.testing.assert_close(
        (sample * units - other_mean) @ other_axes, projected, atol=1e-2, rtol=0
    )


@given(
    top=st.integers(0, 200), left=st.integers(0, 200), take=st.integers(96, 192),
    mirrored=st.booleans(),
)  # fmt: skip
def test_a_crops_positions_find_the_patches_they_lie_in(
    cache: Path, labelled: dict[str, object], top: int, left: int, take: int, mirrored: bool
) -> None:
    """Patches that do not overlap; every position's label is of the patch that contains it."""
    labels, grid = TextureLabels(cache), PatchGrid(32, 32)
    labels.grid = grid
    numbers = np.arange(16 * 16, dtype=np.int16).reshape(16, 16)
    labels.photo = lambda number: numbers  # type: ignore[method-assign]
    found = labels.crop(1, Crop(top, left, take, mirrored), 96, 16)
    rows = (top + (np.arange(6) + 0.5) * 16 * take / 96) / 32
    columns = (left + (np.arange(6) + 0.5) * 16 * take / 96) / 32
    if mirrored:
        columns = columns[::-1]
    for row in range(6):
        for column in range(6):
            # A centre on a border belongs to either side.
            ys = {min(15, int(rows[row] + edge)) for edge in (-1e-9, 1e-9)}
            xs = {min(15, int(columns[column] + edge)) for edge in (-1e-9, 1e-9)}
            inside = {int(numbers[y, x]) for y in ys for x in xs}
            assert int(found[row, column]) in inside


def test_labelled_crops_are_the_same_crops(cache: Path, labelled: dict[str, object]) -> None:
    photos = PhotoCache(cache)
    plain = batches(photos, 96, 4, seed=5)
    both = labelled_batches(photos, TextureLabels(cache), 96, 16, 4, seed=5)
    seen = set()
    for _ in range(4):
        pictures, labels = next(both)
        torch.testing.assert_close(pictures, next(plain), rtol=0, atol=0)
        assert labels.shape == (4, 6, 6)
        assert labels.dtype == torch.int64
        seen |= set(labels.unique().tolist())
    assert len(seen - {NO_LABEL}) > 2
    plain.close()
    both.close()


def test_a_photo_without_patches_has_no_labels(cache: Path, labelled: dict[str, object]) -> None:
    found = TextureLabels(cache).crop(0, Crop(0, 0, 48, False), 96, 16)
    assert (found == NO_LABEL).all()
    assert found.shape == (6, 6)


@given(
    height=st.integers(40, 300), width=st.integers(40, 300), side=st.sampled_from([48, 96]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_crops_lie_in_their_photo(height: int, width: int, side: int, seed: int) -> None:
    crop = random_crop(height, width, side, np.random.default_rng(seed))
    assert crop.top >= 0 <= crop.left
    assert crop.top + crop.take <= height
    assert crop.left + crop.take <= width
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert crop.cut(photo, side).shape == (side, side, 3)


def grid_of(groups: torch.Tensor, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Four pictures of 6x6 positions; latents around a direction per label."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, len(groups), (4, 6, 6), generator=generator)
    noise = torch.randn(4, 6, 6, groups.shape[1], generator=generator)
    return (groups[labels] + spread * noise).permute(0, 3, 1, 2), labels


def same_texture_nearest(latents: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of positions whose nearest one in another picture has their label."""
    vectors = torch.nn.functional.normalize(latents.permute(0, 2, 3, 1).reshape(-1, 15), dim=1)
    picture = torch.arange(4).repeat_interleave(36)
    likeness = vectors @ vectors.T - 9.0 * (picture[:, None] == picture[None])
    return float((labels.flatten()[likeness.argmax(1)] == labels.flatten()).float().mean())


def test_the_contrast_is_small_where_latents_go_with_labels() -> None:
    torch.manual_seed(0)
    groups = torch.eye(5).repeat(1, 3) * 2
    near, labels = grid_of(groups, 0.05)
    far, _ = grid_of(groups, 3.0)
    shuffled = labels.flatten()[torch.randperm(labels.numel())].view_as(labels)
    loss = texture_contrast(near, labels)
    assert loss < 0.5 * texture_contrast(far, labels)
    assert loss < 0.5 * texture_contrast(near, shuffled)


def test_descent_on_the_contrast_brings_same_textures_together() -> None:
    torch.manual_seed(0)
    before, labels = grid_of(torch.zeros(5, 15), 1.0)
    latents = before.clone().requires_grad_()
    optimiser = torch.optim.Adam([latents], lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = texture_contrast(latents, labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert same_texture_nearest(before, labels) < 0.4
    assert same_texture_nearest(latents.detach(), labels) > 0.8


def test_neighbours_in_one_picture_are_no_positives() -> None:
    """With each label in one picture only, there is nothing to pull together."""
    latents = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(3).view(3, 1, 1).expand(3, 4, 4)
    loss = texture_contrast(latents, labels)
    loss.backward()
    assert loss.item() == 0
    assert latents.grad is not None
    assert float(latents.grad.abs().max()) == 0


def test_positions_without_a_label_take_no_part() -> None:
    latents, labels = grid_of(torch.eye(5).repeat(1, 3), 1.0)
    latents.requires_grad_()
    labels[:, :3] = NO_LABEL
    loss = texture_contrast(latents, labels)
    loss.backward()
    assert loss > 0
    assert latents.grad is not None
    assert float(latents.grad[:, :, :3].abs().max()) == 0
    assert float(latents.grad[:, :, 3:].abs().max()) > 0
    assert texture_contrast(latents, torch.full_like(labels, NO_LABEL)).item() == 0


def test_photos_smaller_than_a_patch_are_an_error(
    tmp_path: Path, backbone: dict[str, torch.Tensor]
) -> None:
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "small.png")
    make_cache([PhotoSource(tmp_path)], [], tmp_path / "cache", short_side=64)
    with pytest.raises(RecipeError, match="no photo is as large"):
        make_labels(tmp_path / "cache", backbone, SETTINGS, seed=1)


def test_the_command_writes_labels_beside_the_cache(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    words = ["texture", "--run", str(tmp_path), "--depth", "2", "--sample", "3", "--json"]
    result = CliRunner().invoke(build_app(), words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["textures"] == 4
    assert TextureLabels(tmp_path / "cache").textures == 4
    missing = CliRunner().invoke(build_app(), ["texture", "--run", str(tmp_path / "nowhere")])
    assert missing.exit_code == 1
    assert "run the photos step first" in missing.stderr
