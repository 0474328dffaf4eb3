"""The steps behind fit: palette, tables and export, which writes a bundle for edge and cloud.

The export fits a PSNR model too: what the decoder makes of photos, against what the edge can know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import nn

from codec.kit import checkpoint
from codec.kit.checkpoint import CHECKPOINT, npz
from codec.kit.crops import PhotoCache
from codec.kit.photos import CACHE, need
from codec.kit.psnr import psnr_model, squared_error
from codec.latents import FeatureLatents, Features
from codec.markov_palette.cloud import PICTURES
from codec.markov_palette.coding import DistortionTable, MarkovPaletteCodec
from codec.markov_palette.contexts import ContextModel
from codec.markov_palette.networks import Decoder, DecoderConfig
from codec.markov_palette.palette import Indices, MarkovPalette, PaletteTree
from codec.markov_palette.prediction import ScalePrediction
from codec.markov_palette.reconstruct import PictureReconstructor
from codec.markov_palette.train.contexts import even_contexts, fit_contexts, static_contexts
from codec.markov_palette.train.extractor_onnx import (
    calibrate,
    extractor_to_int8_onnx,
    extractor_to_onnx,
)
from codec.markov_palette.train.networks import Extractor
from codec.markov_palette.train.recipe import Recipe
from codec.onnx import FeatureExtractor
from codec.settings import (
    DiffusionState,
    FeatureSettings,
    PsnrModel,
    create_bundle,
    with_settings,
)
from shared.bundle import Bundle, Manifest
from shared.errors import RecipeError
from shared.preprocess import block_detail, pad_to_multiple

TEMPORAL_FILE: Final = "temporal.npz"
"""What the temporal step leaves in a run's folder: arrays of contexts.npz for predicted frames."""
PSNR_SHARE = 0.9
"""Share of photos that are to keep what the PSNR model promises."""
CALIBRATION_PHOTOS = 32
"""What int8's ranges and rounding are fitted on."""
_VARIANCE_PHOTOS = 48


class RunFiles:
    """Where the steps of one run leave their results.

    cache: folder of the photos step. checkpoint: the fit step's. untabled: folder of the palette
    step, a bundle with even odds and without networks. draft: folder of the tables step, a bundle
    without networks.
    """

    def __init__(self, folder: Path) -> None:
        """folder: of the run."""
        self.folder, self.cache, self.checkpoint = folder, folder / CACHE, folder / CHECKPOINT
        self.untabled, self.draft = folder / "untabled", folder / "draft"


def trained_extractor(recipe: Recipe, files: RunFiles) -> Extractor:
    """The extractor with its averaged weights. Raises RecipeError ``step_missing``."""
    need(files.checkpoint, "fit")
    extractor = Extractor(recipe.extractor_config())
    # Once frozen for the decoder stage, the averaged weights are the extractor's own.
    extractor.load_state_dict(checkpoint.averaged(files.checkpoint, "extractor"))
    return extractor.eval()


def write_palette(recipe: Recipe, files: RunFiles) -> MarkovPaletteCodec:
    """The palette step: a bundle with the palette and even odds, for the tables step."""
    palette = palette_from_checkpoint(recipe, files.checkpoint)
    return make_codec(recipe, palette, even_contexts(palette), files.untabled)


def write_tables(
    recipe: Recipe,
    files: RunFiles,
    progress: Callable[[int, int], None],
    *,
    device: str = "cpu",
) -> dict[str, Any]:
    """The tables step: context networks, and the states' typical rates; returns figures.

    progress: called with (step, steps), first for photos, then for the fit. device: the fit's.
    The figures are measured on photos that the networks were not fitted to.
    """
    palette = write_palette(recipe, files).chains[0].palette
    need(files.cache / "photos.json", "photos")
    settings = recipe.tables
    samples = training_indices(
        trained_extractor(recipe, files), palette, PhotoCache(files.cache), settings.photos,
        recipe.fit.seed, progress,
    )  # fmt: skip
    count = max(1, min(len(samples) // 6, settings.held_out))
    held_out, fitted_on = samples[:count], samples[count:] or samples
    contexts = fit_contexts(
        palette,
        [sample.indices for sample in fitted_on],
        settings.context_settings(recipe.fit.seed),
        device=device,
        progress=progress,
    )
    compared = compare_contexts(
        recipe, palette, contexts, fitted_on, held_out, files.folder / "trial"
    )
    rates = compared["networks"]
    states = tuple(
        DiffusionState(state=n, depths=depths, typical_bits_per_pixel=rates[n])
        for n, depths in enumerate(recipe.states)
    )
    make_codec(
        recipe, MarkovPalette(recipe.plane_specs, palette.trees, states), contexts, files.draft
    )
    strides = {scale.name: scale.stride for scale in recipe.scales}
    return {
        "photos": len(fitted_on),
        "held_out_photos": len(held_out),
        "held_out_bits_per_pixel": compared,
        "multiply_adds_per_pixel": round(contexts.macs_per_pixel(strides), 1),
    }


def write_bundle(recipe: Recipe, files: RunFiles, output: Path, card: str | None) -> Bundle:
    """The export step. Raises RecipeError ``step_missing`` when tables have not been made."""
    need(files.draft / "contexts.npz", "tables")
    draft = Bundle.load(files.draft)
    config = recipe.decoder_config()
    contents = {name: draft.read(name) for name in ("palette.npz", "contexts.npz")}
    if (files.folder / TEMPORAL_FILE).exists():
        with np.load(files.folder / TEMPORAL_FILE) as stored:
            contents["contexts.npz"] = npz(draft.read_arrays("contexts.npz") | dict(stored))
    extractor = trained_extractor(recipe, files)
    calibration = calibrate(extractor, _sample_pictures(recipe, files, CALIBRATION_PHOTOS))
    contents["extractor.onnx"] = extractor_to_onnx(extractor)
    contents["extractor-int8.onnx"] = extractor_to_int8_onnx(extractor, calibration)
    decoder = Decoder(config)
    decoder.load_state_dict(checkpoint.averaged(files.checkpoint, "decoder"))
    config = replace(
        config, variances=_restorer_variances(recipe, files, extractor, decoder.eval())
    )
    half = {name: value.to(torch.float16) for name, value in decoder.state_dict().items()}
    contents["decoder.safetensors"] = bytes(save(half))
    if card is not None:
        contents["MODEL_CARD.md"] = card.encode()
    manifest = manifest_of(recipe, FeatureSettings.of(draft).states, config)
    bundle = create_bundle(output, manifest, contents)
    if recipe.psnr_photos:
        manifest = with_settings(manifest, psnr_model=_psnr_model(recipe, files, bundle))
        bundle = create_bundle(output, manifest, contents)
    return bundle


def _psnr_model(recipe: Recipe, files: RunFiles, bundle: Bundle) -> PsnrModel:
    """What PSNR to expect, fitted on whole training photos with the extractor that is exported."""
    cache = PhotoCache(files.cache)
    chosen = np.random.default_rng(recipe.fit.seed + 1).choice(
        len(cache), min(recipe.psnr_photos, len(cache)), replace=False, p=cache.chances
    )
    return fit_psnr_model(
        MarkovPaletteCodec(bundle),
        PictureReconstructor.from_bundle(bundle),
        FeatureExtractor(bundle, threads=torch.get_num_threads(), precision="fp32"),
        (np.array(cache[int(number)]) for number in chosen),
        share=PSNR_SHARE,
    )


def _restorer_variances(
    recipe: Recipe, files: RunFiles, extractor: Extractor, decoder: Decoder
) -> tuple[tuple[float, float], ...]:
    """Mean squared error of the restorer's estimates at every state, on some training photos.

    How sure it is: the backward chain's sampler needs to know.
    """
    palette = palette_from_checkpoint(recipe, files.checkpoint)
    errors = np.zeros((len(recipe.states), 2))
    with torch.inference_mode():
        for picture in _sample_pictures(recipe, files, _VARIANCE_PHOTOS):
            outputs = zip(("semantic", "texture"), extractor(picture), strict=True)
            features = {name: grid[0].numpy() for name, grid in outputs}
            indices = palette.encode(features)
            for state in range(len(recipe.states)):
                colours = palette.decode(palette.merge(indices, 0, state), state)
                estimates = decoder.restorer(
                    torch.from_numpy(colours["semantic"])[None],
                    torch.from_numpy(colours["texture"])[None],
                    torch.tensor([state]),
                )
                for column, estimate in enumerate(estimates):
                    truth = palette.residual(features, ("semantic", "texture")[column], indices)
                    errors[state, column] += float(np.square(estimate[0].numpy() - truth).mean())
    means = errors / _VARIANCE_PHOTOS
    return tuple((round(float(row[0]), 6), round(float(row[1]), 6)) for row in means)


def _sample_pictures(recipe: Recipe, files: RunFiles, count: int) -> Iterator[torch.Tensor]:
    """Corners of random training photos: float32 [1, 3, H, W] in -0.5..0.5, sides up to 256."""
    cache = PhotoCache(files.cache)
    for number in np.random.default_rng(recipe.fit.seed).choice(len(cache), count, p=cache.chances):
        crop = np.array(cache[int(number)][:256, :256])
        padded = pad_to_multiple(crop, max(scale.stride for scale in recipe.scales))
        yield torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255 - 0.5


def manifest_of(
    recipe: Recipe, states: tuple[DiffusionState, ...], config: DecoderConfig | None = None
) -> Manifest:
    """The recipe's manifest; files are filled in when the bundle is written.

    config: of the decoder; a draft has none.
    """
    settings = FeatureSettings(
        scales=recipe.scales,
        planes=recipe.plane_specs,
        states=states,
        input_multiple=max(scale.stride for scale in recipe.scales),
        halo_positions=recipe.extractor_config().halo_positions,
        decoder=config.to_dict() if config is not None else {},
    )
    return settings.manifest(
        pictures=PICTURES if config is not None else (),
        name=recipe.name,
        version=recipe.version,
        description=recipe.description,
        codec=recipe.codec,
    )


def make_codec(
    recipe: Recipe, palette: MarkovPalette, contexts: ContextModel, folder: Path
) -> MarkovPaletteCodec:
    """A codec over a draft bundle in ``folder`` (palette and contexts, no networks)."""
    files = {"palette.npz": npz(palette.to_arrays()), "contexts.npz": npz(contexts.to_arrays())}
    return MarkovPaletteCodec(create_bundle(folder, manifest_of(recipe, palette.states), files))


class Sample(NamedTuple):
    """A photo's leaf indices, and its size in pixels."""

    indices: Indices
    width: int
    height: int


def training_indices(
    extractor: nn.Module,
    palette: MarkovPalette,
    cache: PhotoCache,
    photos: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> list[Sample]:
    """Leaf indices of a random sample of training photos."""
    chosen = np.random.default_rng(seed).choice(
        len(cache), min(photos, len(cache)), replace=False, p=cache.chances
    )
    result: list[Sample] = []
    with torch.inference_mode():
        for number, index in enumerate(chosen):
            photo = np.array(cache[int(index)])
            padded = pad_to_multiple(photo, 16)
            picture = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255 - 0.5
            semantic, texture = extractor(picture)
            features = {"semantic": semantic[0].numpy(), "texture": texture[0].numpy()}
            result.append(Sample(palette.encode(features), photo.shape[1], photo.shape[0]))
            progress(number + 1, len(chosen))
    return result


def typical_bits_per_pixel(codec: MarkovPaletteCodec, samples: list[Sample]) -> list[float]:
    """Median bits per pixel of whole files at every state, over the samples."""
    rows = []
    for sample in samples:
        coded = codec.chains[0].code(*sample)
        pixels = sample.width * sample.height
        sizes = [8 * size / pixels for size in coded.cumulative_bytes().values()]
        rows.append(sizes[::-1])
    return [float(value) for value in np.median(np.array(rows), axis=0)]


def compare_contexts(
    recipe: Recipe,
    palette: MarkovPalette,
    fitted: ContextModel,
    counted_on: list[Sample],
    held_out: list[Sample],
    folder: Path,
) -> dict[str, list[float]]:
    """Bits per pixel of held-out photos at every state, by model; and what the networks save.

    ``even_odds``: no model. ``static_tables``: each node's frequency in ``counted_on``.
    ``networks``: the fitted ones. ``saved``: their share of the static tables' bits.
    """
    static = static_contexts(palette, [sample.indices for sample in counted_on])
    models = {"even_odds": even_contexts(palette), "static_tables": static, "networks": fitted}
    rates = {
        name: typical_bits_per_pixel(make_codec(recipe, palette, model, folder), held_out)
        for name, model in models.items()
    }
    pairs = zip(rates["networks"], rates["static_tables"], strict=True)
    rates["saved"] = [1 - ours / theirs for ours, theirs in pairs]
    return {name: [round(value, 5) for value in row] for name, row in rates.items()}


def palette_from_checkpoint(recipe: Recipe, path: Path) -> MarkovPalette:
    """The checkpoint's trees as a MarkovPalette with the recipe's states.

    Raises RecipeError ``step_missing`` when fit has not run, or not as far as its first trees.
    """
    need(path, "fit")
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


Pixels = npt.NDArray[np.uint8]


def fit_psnr_model(
    codec: MarkovPaletteCodec,
    reconstructor: PictureReconstructor,
    extract: Callable[[Pixels], Features],
    photos: Iterable[Pixels],
    *,
    share: float = 0.9,
    progress: Callable[[int], None] = lambda done: None,
) -> PsnrModel:
    """The model of one extractor, palette and decoder; ``share`` of photos shall meet a target.

    extract: the edge's network: uint8 [H, W, 3], unpadded, to float32 [C, h, w] per scale. photos:
    uint8 [H, W, 3], like those that will be sent and none that evaluation uses; two hundred or
    more make the margins steady. Raises ValueError as :func:`codec.kit.psnr.psnr_model` does.
    """
    chain = codec.chains[0]
    states = range(chain.palette.coarsest_state + 1)
    inputs: list[list[list[float]]] = []
    targets: list[list[float]] = []
    for number, photo in enumerate(photos, 1):
        features = extract(photo)
        indices = chain.quantise(features)
        table = DistortionTable(chain.palette, features, indices)
        detail = block_detail(photo)
        inputs.append([[*table.at(state).values(), *detail] for state in states])
        errors = [
            squared_error(photo, reconstructor.reconstruct([latents])[0])
            for latents in (
                _latents(chain.palette, indices, state, photo.shape[1], photo.shape[0])
                for state in states
            )
        ]
        targets.append(errors)
        progress(number)
    scales = list(dict.fromkeys(plane.scale for plane in chain.palette.planes))
    return psnr_model(inputs, targets, scales, share)


def _latents(
    palette: MarkovPalette, indices: Indices, state: int, width: int, height: int
) -> FeatureLatents:
    """What decoding a stream at ``state`` gives, without the stream."""
    merged = palette.merge(indices, 0, state)
    depths = palette.depths(state)
    return FeatureLatents(
        palette.decode(merged, state),
        state,
        width,
        height,
        merged,
        {name: np.full(grid.shape, depths[name], np.uint8) for name, grid in merged.items()},
    )
