"""Texture labels of the photo cache's patches, looked up for crops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.kit.bisect import fit_leaves, nearest
from codec.kit.crops import Crop, PhotoCache, ahead, draw, pictures_of
from codec.kit.losses.frozen import CLASSIFIER, Backbone
from shared.errors import RecipeError

LABELS_FILE = "textures.npz"
NO_LABEL = -1
Labels = npt.NDArray[np.int16]
Places = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PatchGrid:
    """Square patches of ``window`` pixels, every ``step`` pixels, from the upper left corner."""

    window: int = 64
    step: int = 32

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches that fit into a picture; (0, 0) when none does."""
        rows, columns = ((side - self.window) // self.step + 1 for side in (height, width))
        return (rows, columns) if rows > 0 and columns > 0 else (0, 0)

    def nearest(self, labels: Labels, rows: Places, columns: Places) -> Labels:
        """Labels of the patches whose centres are nearest to places in the picture.

        labels: [rows, columns] of patches, at least one. rows, columns: float64, in pixels.
        Returns [len(rows), len(columns)].
        """
        numbers = [
            np.rint((places - self.window / 2) / self.step).astype(np.int64).clip(0, patches - 1)
            for places, patches in zip((rows, columns), labels.shape, strict=True)
        ]
        return labels[np.ix_(*numbers)]


class TextureLabels:
    """What the texture step wrote beside the photos."""

    def __init__(self, folder: Path) -> None:
        """folder: the photo cache. Raises ValueError for labels of other photos."""
        with np.load(folder / LABELS_FILE, allow_pickle=False) as file:
            self._labels: Labels = file["labels"]
            self._shapes: npt.NDArray[np.int32] = file["shapes"]
            self.grid = PatchGrid(int(file["window"]), int(file["step"]))
            self.textures = len(file["centres"])
            photos = str(file["photos"])
        if photos != fingerprint(folder):
            raise ValueError(f"{folder / LABELS_FILE} is of other photos; run the texture step")
        ends = np.cumsum(self._shapes.prod(1, dtype=np.int64))
        self._starts = np.concatenate(([0], ends))

    def photo(self, number: int) -> Labels:
        """The labels of a photo's patches: int16 [rows, columns], none in a photo too small."""
        start, end = self._starts[number : number + 2]
        return self._labels[start:end].reshape(self._shapes[number])

    def crop(self, number: int, crop: Crop, side: int, stride: int) -> Labels:
        """Labels of the patches around each latent position: int16 [side / stride] * 2.

        A position takes the label of the patch whose centre is nearest to its own, through the
        crop's scale and mirroring. ``NO_LABEL`` everywhere in a photo without patches.
        """
        positions = side // stride
        labels = self.photo(number)
        if labels.size == 0:
            return np.full((positions, positions), NO_LABEL, np.int16)
        centres = (np.arange(positions) + 0.5) * stride * crop.take / side
        found = self.grid.nearest(labels, crop.top + centres, crop.left + centres)
        return found[:, ::-1] if crop.mirrored else found


def labelled_batches(
    cache: PhotoCache, labels: TextureLabels, side: int, stride: int, batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same crops as :func:`~codec.kit.crops.batches`, and the texture at a scale's positions.

    The labels are int64 [batch, side / stride, side / stride], ``NO_LABEL`` where there is none.
    """
    rng = np.random.default_rng(seed)

    def make() -> tuple[Tensor, Tensor]:
        drawn = draw(cache, side, batch, rng)
        found = np.stack([labels.crop(number, crop, side, stride) for number, crop in drawn])
        return pictures_of(cache, drawn, side), torch.from_numpy(found).long()

    return ahead(make)


def fingerprint(folder: Path) -> str:
    """The SHA-256 of a photo cache's photos: names, sizes and places, whatever they weigh."""
    photos = json.loads((folder / "photos.json").read_text())["photos"]
    rows = [[photo[key] for key in ("name", "height", "width", "offset")] for photo in photos]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def texture_contrast(
    latents: Tensor, labels: Tensor, *, temperature: float = 0.1, samples: int = 768
) -> Tensor:
    """InfoNCE with the positions of the same label in other pictures as one positive.

    (Khosla et al., "Supervised Contrastive Learning", 2020, L_in without the count of positives:
    minus the logarithm of the share of a position's neighbourhood that has its label.) The other
    form, L_out, wants every positive near; but a texture comes in many colours, which latents
    have to tell apart, and it is enough to be near some of one's own. Positions of the same label
    in the same picture count neither way: their patches overlap, and being near is no merit.

    latents: [n, channels, h, w]. labels: int [n, h, w], NO_LABEL where there is none. At most
    ``samples`` positions take part, evenly spaced (no chance is used up: a run with this loss
    sees the crops and states of one without). The latents are taken as they lie around their
    mean, so that what is compared is a direction in the space that the palette divides. Returns
    a float32 mean over the positions that have a positive; 0 when there is none. Call it outside
    autocast.
    """
    count, channels = latents.shape[:2]
    values = latents.permute(0, 2, 3, 1).reshape(-1, channels).float()
    flat = labels.reshape(-1).long()
    picture = torch.arange(count, device=flat.device).repeat_interleave(len(flat) // count)
    drawn = (flat != NO_LABEL).nonzero()[:, 0]
    if len(drawn) == 0:
        return latents.sum() * 0.0
    if len(drawn) > samples:
        drawn = drawn[torch.arange(samples, device=drawn.device) * len(drawn) // samples]
    centre = values.detach().mean(0)
    values, flat, picture = F.normalize(values[drawn] - centre, dim=1), flat[drawn], picture[drawn]
    same = flat[:, None] == flat[None]
    apart = picture[:, None] != picture[None]
    positive, negative = same & apart, ~same
    similarity = values @ values.T / temperature
    anchors = positive.any(1)
    if not bool(anchors.any()):
        return latents.sum() * 0.0
    similarity, positive, negative = similarity[anchors], positive[anchors], negative[anchors]
    own = similarity.masked_fill(~positive, -torch.inf).logsumexp(1)
    all_of_them = similarity.masked_fill(~(positive | negative), -torch.inf).logsumexp(1)
    return (all_of_them - own).mean()


TAPS = (2, 4, 10)
"""EfficientNet-Lite0's stages at strides 4, 8 and 16: 24, 40 and 112 channels."""
STRIDES = (4, 8, 16)
Arrays = dict[str, npt.NDArray[np.generic]]


class PatchDescriptors(nn.Module):
    """Log-magnitudes of the transformed feature maps of every patch, a tensor per stage."""

    window: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], grid: PatchGrid) -> None:
        """tensors: the model store's ``efficientnet-lite0``."""
        super().__init__()
        if grid.window % max(STRIDES) or grid.step % max(STRIDES):
            raise ValueError(f"windows and steps are multiples of {max(STRIDES)} pixels")
        self.grid = grid
        self.backbone = Backbone(tensors, CLASSIFIER.shape)
        self.gains = nn.ParameterList(
            nn.Parameter(1 / deviation, requires_grad=False)
            for deviation in self.backbone.deviations(TAPS)
        )

    @torch.no_grad()
    def forward(self, picture: Tensor) -> list[Tensor]:
        """[1, 3, h, w] in -0.5..0.5 -> float32 [rows * columns, dimensions] per stage.

        Patches are in row-major order, as many as :meth:`PatchGrid.shape` says.
        """
        rows, columns = self.grid.shape(*picture.shape[2:])
        found = []
        for stride, gain, feature in zip(
            STRIDES, self.gains, self.backbone(picture, TAPS), strict=True
        ):
            side, step = self.grid.window // stride, self.grid.step // stride
            patches = (feature[0] * gain[:, None, None]).unfold(1, side, step)
            patches = patches.unfold(2, side, step)[:, :rows, :columns]
            found.append(_magnitudes(patches).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1))
        return found


def _magnitudes(patches: Tensor) -> Tensor:
    """[..., side, side] -> log(1 + |F|), [..., side // 2 + 1, side // 2 + 1].

    The magnitudes of a real patch are point-symmetric; those of (u, v) and (-u, v), which
    mirroring exchanges, are averaged, so that one quadrant has everything.
    """
    side = patches.shape[-1]
    half = side // 2 + 1
    magnitudes = torch.log1p(torch.fft.rfft2(patches, norm="ortho").abs())
    mirrored = magnitudes.roll(-1, dims=-2).flip(-2)
    return 0.5 * (magnitudes + mirrored)[..., :half, :]


@dataclass(frozen=True)
class TextureModel:
    """Descriptors' means, principal axes per stage, and the centres of the textures."""

    grid: PatchGrid
    means: tuple[Tensor, ...]
    axes: tuple[Tensor, ...]
    """Per stage [dimensions, components]: standardises, projects, and gives stages one weight."""
    centres: Tensor
    """[textures, components of all stages]"""

    def project(self, descriptors: list[Tensor]) -> Tensor:
        """Per stage [n, dimensions] -> [n, components of all stages]."""
        parts = zip(descriptors, self.means, self.axes, strict=True)
        return torch.cat([(values - mean) @ axes for values, mean, axes in parts], 1)

    def labels(self, descriptors: list[Tensor]) -> Tensor:
        """The number of each patch's texture, int64 [n]."""
        return nearest(self.project(descriptors), self.centres)

    def to_arrays(self) -> Arrays:
        """For :func:`numpy.savez`; :meth:`from_arrays` is the inverse."""
        arrays: Arrays = {
            "window": np.int64(self.grid.window),  # type: ignore[dict-item]
            "step": np.int64(self.grid.step),  # type: ignore[dict-item]
            "centres": self.centres.numpy(),
        }
        for stage, (mean, axes) in enumerate(zip(self.means, self.axes, strict=True)):
            arrays |= {f"mean_{stage}": mean.numpy(), f"axes_{stage}": axes.numpy()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> TextureModel:
        """Rebuild from :meth:`to_arrays`'s values. Raises KeyError."""

        def stages(name: str) -> tuple[Tensor, ...]:
            return tuple(torch.from_numpy(arrays[f"{name}_{k}"]) for k in range(len(TAPS)))

        return cls(
            PatchGrid(int(cast(int, arrays["window"])), int(cast(int, arrays["step"]))),
            stages("mean"),
            stages("axes"),
            torch.from_numpy(arrays["centres"]),
        )


def principal_axes(sample: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """(mean [d], axes [d, components]) of standardised dimensions.

    sample: float32 [n, d]. What the axes project to has a total variance of 1, and along each
    axis the square root of what it had: contrast, by far the strongest, does not decide alone.
    Signs are fixed (the largest entry of each axis is positive), so that the same sample gives
    the same axes.
    """
    mean, deviation = sample.mean(0), sample.std(0).clamp_min(1e-6)
    standard = (sample - mean) / deviation
    covariance = standard.T @ standard / len(sample)
    values, vectors = torch.linalg.eigh(covariance.double())
    chosen = vectors[:, -components:].flip(1)
    largest = chosen.abs().argmax(0)
    chosen = chosen * chosen[largest, torch.arange(chosen.shape[1])].sign()
    spread = values[-components:].flip(0).clamp_min(1e-12).sqrt()
    chosen = chosen / (spread * spread.sum()).sqrt()
    return mean, chosen.float() / deviation[:, None]


Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TextureSettings:
    """``2 ** depth`` textures; principal components per stage; what they are fitted on."""

    depth: int = 6
    components: int = 32
    sample_photos: int = 800
    patches_per_photo: int = 16
    grid: PatchGrid = field(default_factory=PatchGrid)


def make_labels(
    folder: Path,
    backbone: Mapping[str, Tensor],
    settings: TextureSettings,
    seed: int,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> dict[str, object]:
    """Label every patch of the photo cache in ``folder`` and write ``textures.npz`` there.

    backbone: the model store's ``efficientnet-lite0``. Returns figures: how many patches each
    texture has, and the share of the descriptors' variance that the textures explain.
    Raises RecipeError ``no_patches`` when no photo is as large as a patch.
    """
    cache = PhotoCache(folder)
    descriptors = PatchDescriptors(backbone, settings.grid)
    rng = np.random.default_rng(seed)
    large = [n for n in range(len(cache)) if _shape(cache, n, settings.grid) != (0, 0)]
    if not large:
        wanted = settings.grid.window
        raise RecipeError("no_patches", f"no photo is as large as a patch of {wanted} pixels")
    chosen = rng.permutation(large)[: settings.sample_photos]
    total = len(chosen) + len(cache)
    sample: list[list[Tensor]] = []
    for number, photo in enumerate(chosen):
        stages = descriptors(as_picture(cache[int(photo)]))
        keep = torch.from_numpy(rng.permutation(len(stages[0]))[: settings.patches_per_photo])
        sample.append([stage[keep] for stage in stages])
        progress(number + 1, total)
    model, explained = fit_model(
        [torch.cat(stage) for stage in zip(*sample, strict=True)], settings
    )
    del sample
    shapes = np.zeros((len(cache), 2), np.int32)
    labels: list[npt.NDArray[np.int16]] = []
    for number in range(len(cache)):
        shapes[number] = _shape(cache, number, settings.grid)
        if shapes[number].all():
            found = model.labels(descriptors(as_picture(cache[number])))
            labels.append(found.numpy().astype(np.int16))
        progress(len(chosen) + number + 1, total)
    flat = np.concatenate(labels)
    partial = folder / f"{LABELS_FILE}.partial"
    with partial.open("wb") as output:
        np.savez(
            output,
            labels=flat,
            shapes=shapes,
            photos=np.array(fingerprint(folder)),
            **model.to_arrays(),
        )
    partial.replace(folder / LABELS_FILE)
    counts = np.bincount(flat, minlength=2**settings.depth)
    return {
        "photos": len(labels),
        "patches": len(flat),
        "textures": int((counts > 0).sum()),
        "explained": round(explained, 4),
        "largest_share": round(float(counts.max() / len(flat)), 4),
        "sha256": hashlib.sha256(flat.tobytes()).hexdigest(),
    }


def fit_model(stages: list[Tensor], settings: TextureSettings) -> tuple[TextureModel, float]:
    """Axes and centres from a sample of descriptors, [n, dimensions] per stage.

    Also returns the share of the projected variance that the centres explain.
    """
    means, axes = zip(
        *(principal_axes(stage, settings.components) for stage in stages), strict=True
    )
    empty = TextureModel(settings.grid, means, axes, torch.zeros(1, 1))
    projected = empty.project(stages)
    centres, _ = fit_leaves(projected, settings.depth, leaf_steps=12)
    model = TextureModel(settings.grid, means, axes, centres)
    left = (projected - centres[model.labels(stages)]).square().sum()
    return model, 1 - float(left / (projected - projected.mean(0)).square().sum())


def as_picture(photo: Pixels) -> Tensor:
    """uint8 [h, w, 3] -> float32 [1, 3, h, w] in -0.5..0.5."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255 - 0.5


def _shape(cache: PhotoCache, number: int, grid: PatchGrid) -> tuple[int, int]:
    entry = cache.entries[number]
    return grid.shape(entry["height"], entry["width"])
