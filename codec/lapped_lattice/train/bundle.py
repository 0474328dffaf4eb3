"""The steps behind fit: palette, contexts, and the bundle for edge and cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save
from torch import Tensor

from codec.kit.checkpoint import CHECKPOINT, npz
from codec.kit.crops import PhotoCache
from codec.kit.photos import CACHE, need
from codec.kit.psnr import psnr_model, squared_error
from codec.lapped_lattice import FAITHFUL
from codec.lapped_lattice.cloud import PICTURES
from codec.lapped_lattice.coding import LappedCodec
from codec.lapped_lattice.contexts import LappedContexts
from codec.lapped_lattice.lattice import LappedPalette, LappedPlane
from codec.lapped_lattice.networks import SHARED, STRIDE, LappedDecoder
from codec.lapped_lattice.reconstruct import LappedReconstructor
from codec.lapped_lattice.train.contexts import fit_contexts
from codec.lapped_lattice.train.extractor_onnx import analysis_onnx
from codec.lapped_lattice.train.fit import held_out
from codec.lapped_lattice.train.networks import Analysis
from codec.lapped_lattice.train.recipe import SCALE, LappedRecipe
from codec.lapped_lattice.train.sequences import read_sequences
from codec.latents import FeatureLatents, Features
from codec.lattice_palette.nested.palette import MAX_LIMIT, RATIO, NestedPalette
from codec.lattice_palette.train.nested.lattices import make_nested
from codec.lattice_palette.train.nested.sizes import NestedFiles
from codec.onnx import FeatureExtractor
from codec.settings import (
    CONTEXTS_FILE,
    DECODER_FILE,
    EXTRACTOR_FILES,
    PALETTE_FILE,
    FeatureSettings,
    PsnrModel,
    ScaleSpec,
    create_bundle,
    decoder_file,
    with_settings,
)
from shared.bundle import ADVICE_NAME, Bundle, Manifest, PictureSpec
from shared.bundle.advice import NO_ADVICE
from shared.preprocess import block_detail

_CARD = "MODEL_CARD.md"
_PALETTE_CROP = 320
_PALETTE_PHOTOS = 64
_PSNR_SHARE = 0.9
"""Share of photos that are to keep what the PSNR model promises."""


class RunFiles:
    """Files of one run.

    cache: folder of the photos step. basis: channels of the transform. checkpoint: of the fit step.
    palette: lattices. sequences: values of moving material. contexts: context networks.
    """

    def __init__(self, folder: Path) -> None:
        """folder: of the run."""
        self.folder, self.cache = folder, folder / CACHE
        self.basis, self.checkpoint = folder / "basis.npz", folder / CHECKPOINT
        self.palette, self.contexts = folder / "palette.npz", folder / "contexts.npz"
        self.sequences = folder / "sequences.npz"


def features_of(
    analysis: Analysis, cache: PhotoCache, numbers: Sequence[int], side: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Values of the middle of photos, at most ``side`` pixels of each side: float32 [C, h, w]."""
    for number in numbers:
        photo = cache[number]
        height, width = (min(side, n // STRIDE * STRIDE) for n in photo.shape[:2])
        top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
        crop = np.array(photo[top : top + height, left : left + width])
        picture = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255 - 0.5
        with torch.no_grad():
            yield analysis(picture)[0].numpy()


def write_palette(recipe: LappedRecipe, files: RunFiles, analysis: Analysis) -> LappedPalette:
    """The lattices, whose limits and means are those of training photos."""
    cache = PhotoCache(files.cache)
    numbers = training_numbers(recipe, cache)[:_PALETTE_PHOTOS]
    rows = [
        torch.from_numpy(values.reshape(values.shape[0], -1))
        for values in features_of(analysis, cache, numbers, _PALETTE_CROP)
    ]
    latents = {SCALE: torch.cat(rows, 1)[None, :, None]}
    made = make_nested(recipe.nested, {SCALE: recipe.groups}, recipe.step, latents)
    palette = lapped_palette(made, recipe.dead, recipe.lean)
    files.palette.write_bytes(npz(palette.to_arrays()))
    return palette


def read_palette(recipe: LappedRecipe, files: RunFiles) -> LappedPalette:
    """What the palette step wrote. Raises RecipeError ``step_missing``."""
    need(files.palette, "palette")
    specs, states = _tables(recipe)
    with np.load(files.palette) as arrays:
        return LappedPalette.from_arrays(specs, states, dict(arrays))


def write_contexts(
    recipe: LappedRecipe,
    files: RunFiles,
    analysis: Analysis,
    jobs: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Fit context networks; figures are held-out photos' bytes at every state. jobs: processes."""
    palette, cache = read_palette(recipe, files), PhotoCache(files.cache)
    part, side = recipe.contexts, recipe.fit.crop
    clips = []
    if recipe.sequences is not None:
        need(files.sequences, "sequences")
        clips = read_sequences(files.sequences)
    numbers = training_numbers(recipe, cache)[: part.stills]
    stills = [np.stack(_squares(features_of(analysis, cache, numbers, side)))]
    contexts = fit_contexts(palette, clips, stills, part, jobs=jobs, progress=progress)
    files.contexts.write_bytes(npz(contexts.to_arrays()))
    sizes = typical_bytes(recipe, files, analysis, palette, contexts)
    return {"bits_per_pixel": [round(8 * n / side**2, 4) for n in sizes]}


def read_contexts(files: RunFiles, palette: LappedPalette) -> LappedContexts:
    """What the tables step wrote. Raises RecipeError ``step_missing``."""
    need(files.contexts, "tables")
    with np.load(files.contexts) as arrays:
        made = LappedContexts.from_arrays(palette, dict(arrays))
    assert isinstance(made, LappedContexts)
    return made


def typical_bytes(
    recipe: LappedRecipe,
    files: RunFiles,
    analysis: Analysis,
    palette: LappedPalette,
    contexts: LappedContexts,
) -> list[float]:
    """Median bytes of whole files of held-out photos' middles at every state."""
    cache, side = PhotoCache(files.cache), recipe.fit.crop
    numbers = [int(number) for number in held_out(cache, recipe.fit.held_out)]
    found = np.stack(_squares(features_of(analysis, cache, numbers, side)))
    latents: Mapping[str, Tensor] = {SCALE: torch.from_numpy(found)}
    return NestedFiles(palette, contexts).typical_bytes(latents, (side, side))


def _squares(
    features: Iterable[npt.NDArray[np.float32]],
) -> list[npt.NDArray[np.float32]]:
    """Those of photos with a square middle."""
    return [values for values in features if values.shape[1] == values.shape[2]]


def training_numbers(recipe: LappedRecipe, cache: PhotoCache) -> list[int]:
    """Numbers of photos to train on, in an order drawn by chance."""
    rng = np.random.default_rng(recipe.fit.seed)
    mine = set(held_out(cache, recipe.fit.held_out).tolist())
    return [int(n) for n in rng.permutation(len(cache)) if n not in mine]


def write_bundle(
    recipe: LappedRecipe,
    palette: LappedPalette,
    contexts: LappedContexts,
    analysis: Analysis,
    decoder: LappedDecoder,
    rates: Sequence[float],
    folder: Path,
    card: str | None = None,
    *,
    photos: Iterable[npt.NDArray[np.uint8]] | None = None,
) -> Bundle:
    """Write the bundle. rates: typical bits per pixel of every state. photos: that a PSNR model is
    fitted on; None: none is."""
    files = {
        EXTRACTOR_FILES["fp32"]: analysis_onnx(analysis, SCALE),
        PALETTE_FILE: npz(palette.to_arrays()),
        CONTEXTS_FILE: npz(contexts.to_arrays()),
        DECODER_FILE: save(_halves(decoder)),
    }
    if card is not None:
        files[_CARD] = card.encode()
    manifest = manifest_of(recipe, palette, decoder, rates)
    bundle = create_bundle(folder, manifest, files)
    if photos is None:
        return bundle
    manifest = with_settings(manifest, psnr_model=fit_psnr_model(bundle, palette, photos))
    return create_bundle(folder, manifest, files)


def with_decoder(
    bundle: Bundle,
    name: str,
    decoder: LappedDecoder,
    folder: Path,
    card: str | None = None,
    *,
    photos: Sequence[npt.NDArray[np.uint8]] = (),
) -> Bundle:
    """Write a bundle that has another decoder too, or another faithful one; all else is as it was,
    advice as well. card: in place of the bundle's own. photos: that a PSNR model of the faithful
    one is fitted on, in place of the bundle's."""
    files = {file: bundle.read(file) for file in bundle.manifest.files}
    if card is not None:
        files[_CARD] = card.encode()
    settings = FeatureSettings.of(bundle)
    others = dict(settings.other_decoders or {})
    if name == FAITHFUL:
        files[DECODER_FILE] = save(_halves(decoder))
        changes: dict[str, Any] = {"decoder": decoder.config.to_dict()}
    else:
        first = load(files[DECODER_FILE])
        weights = _halves(decoder)
        for shared in SHARED:
            if torch.equal(weights[shared], first[shared]):
                del weights[shared]
        files[decoder_file(name)] = save(weights)
        others[name] = decoder.config.to_dict()
        changes = {"other_decoders": others}
    pictures = (*PICTURES, *(PictureSpec(name=other) for other in others))
    manifest = with_settings(bundle.manifest, **changes).model_copy(update={"pictures": pictures})
    made = create_bundle(folder, manifest, files)
    if photos:
        palette = LappedCodec(made).chains[0].palette
        assert isinstance(palette, LappedPalette)
        manifest = with_settings(manifest, psnr_model=fit_psnr_model(made, palette, photos))
        create_bundle(folder, manifest, files)
    if bundle.advice != NO_ADVICE:
        (folder / ADVICE_NAME).write_bytes(bundle.advice.to_bytes())
    return Bundle.load(folder)


def fit_psnr_model(
    bundle: Bundle, palette: LappedPalette, photos: Iterable[npt.NDArray[np.uint8]]
) -> PsnrModel:
    """What PSNR to expect of key frames, with the bundle's own two halves. Raises ValueError for
    too few photos."""
    extractor, worker = FeatureExtractor(bundle), LappedReconstructor.from_bundle(bundle)
    known: list[list[list[float]]] = []
    errors: list[list[float]] = []
    for photo in photos:
        features, detail = extractor(photo), block_detail(photo)
        known.append([])
        errors.append([])
        for row in palette.states:
            latents = _latents(palette, features, row.state, photo)
            distortion = palette.distortion(features, latents.indices, row.state)
            known[-1].append([*distortion.values(), *detail])
            errors[-1].append(squared_error(photo, worker.reconstruct([latents])[0]))
    return psnr_model(known, errors, [SCALE], _PSNR_SHARE)


def _latents(
    palette: LappedPalette, features: Features, state: int, photo: npt.NDArray[np.uint8]
) -> FeatureLatents:
    """What decoding a key frame at ``state`` gives, without the stream."""
    values = palette.quantise(features, state)
    depths = palette.depths_of(values, state)
    height, width = photo.shape[:2]
    return FeatureLatents(palette.decode(values, depths), state, width, height, values, depths)


def manifest_of(
    recipe: LappedRecipe, palette: LappedPalette, decoder: LappedDecoder, rates: Sequence[float]
) -> Manifest:
    """The manifest; files are filled in when the bundle is written."""
    states = tuple(
        row.model_copy(update={"typical_bits_per_pixel": rate})
        for row, rate in zip(palette.states, rates, strict=True)
    )
    settings = FeatureSettings(
        scales=(ScaleSpec(name=SCALE, stride=STRIDE, channels=palette.channels),),
        planes=palette.specs,
        states=states,
        input_multiple=STRIDE,
        halo_positions=1 + 2 * recipe.analysis.blocks,
        decoder=decoder.config.to_dict(),
    )
    return settings.manifest(
        PICTURES,
        name=recipe.name,
        version=recipe.version,
        description=recipe.description,
        codec=recipe.codec,
    )


def _halves(decoder: LappedDecoder) -> dict[str, Tensor]:
    """Weights as float16; what is counted stays as it is."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in decoder.state_dict().items()
    }


def lapped_palette(made: NestedPalette, dead: float, lean: float) -> LappedPalette:
    """The same lattices with dead zones; limits take in all that coarser ones may become."""
    planes = []
    for plane in made.planes.values():
        coarsest = RATIO ** (plane.spec.depth - 1)
        limits = (plane.limits // coarsest + 1) * coarsest - 1
        limits = np.minimum(limits, MAX_LIMIT // coarsest * coarsest - 1).astype(np.int16)
        planes.append(LappedPlane(plane.spec, plane.step, limits, plane.means))
    return LappedPalette(planes, made.states, made.order, made.weights, dead=dead, lean=lean)


def _tables(recipe: LappedRecipe) -> tuple[Any, Any]:
    """Planes and states, as the palette has them."""
    nothing = {SCALE: torch.zeros(1, recipe.transform.channels, 1, 1)}
    made = make_nested(recipe.nested, {SCALE: recipe.groups}, recipe.step, nothing)
    return made.specs, made.states
