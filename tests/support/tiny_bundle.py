"""A tiny seeded bundle with real files of every kind, for tests that need no trained weights.

The extractor is a real ONNX graph, the decoder has real (random) weights; both are small. It is
the same on every machine: weights come from numpy's PCG64, whose streams are fixed.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from codec.markov_palette.palette import DiffusionState, MarkovPalette, PlaneSpec
from codec.markov_palette.tree import PaletteTree
from shared.bundle import Bundle, Manifest, PsnrModel, PsnrRow, ScaleSpec
from tests.support.tiny_contexts import tiny_contexts

PLANES = (
    PlaneSpec(name="semantic_0", scale="semantic", first_channel=0, channels=4, depth=5),
    PlaneSpec(name="semantic_1", scale="semantic", first_channel=4, channels=4, depth=4),
    PlaneSpec(name="texture_0", scale="texture", first_channel=0, channels=3, depth=3),
)
DEPTHS = ((5, 4, 3), (5, 4, 1), (5, 4, 0), (4, 2, 0), (2, 1, 0))
SCALES = (
    ScaleSpec(name="semantic", stride=16, channels=8),
    ScaleSpec(name="texture", stride=8, channels=3),
)
STATES = tuple(
    DiffusionState(state=number, depths=depths, typical_bits_per_pixel=sum(depths) / 100)
    for number, depths in enumerate(DEPTHS)
)


def tiny_palette(seed: int = 7) -> MarkovPalette:
    """The tiny bundle's palette: random colours, sorted a little."""
    rng = np.random.default_rng(seed)
    trees = {}
    for plane in PLANES:
        leaves = rng.standard_normal((2**plane.depth, plane.channels))
        order = np.lexsort((leaves[:, 1], np.round(leaves[:, 0])))
        counts = rng.integers(1, 1000, 2**plane.depth)
        trees[plane.name] = PaletteTree.from_leaves(leaves[order], counts)
    return MarkovPalette(PLANES, trees, STATES)


def codec_files(seed: int = 7) -> dict[str, bytes]:
    """palette.npz and contexts.npz of the tiny bundle."""
    palette = tiny_palette(seed)
    return {
        "palette.npz": _npz(palette.to_arrays()),
        "contexts.npz": _npz(tiny_contexts(palette).to_arrays()),
    }


def tiny_manifest(**changes: object) -> Manifest:
    """The tiny bundle's manifest, before its files are known."""
    values: dict[str, object] = {
        "name": "tiny",
        "version": "1",
        "codec": "markov-palette",
        "scales": SCALES,
        "planes": PLANES,
        "states": STATES,
        "input_multiple": 16,
        "halo_positions": 8,
        "files": {},
    }
    return Manifest.model_validate(values | changes)


def make_codec_bundle(folder: Path) -> Bundle:
    """A bundle with palette and contexts only: enough for bitstreams, no networks."""
    return Bundle.create(folder, tiny_manifest(), codec_files())


def make_tiny_bundle(folder: Path) -> Bundle:
    """The complete tiny bundle: extractor.onnx and decoder.safetensors too (needs torch)."""
    import torch
    from safetensors.torch import save

    from codec.markov_palette.networks import Decoder, DecoderConfig
    from codec.markov_palette.train.extractor import LATENT_GAIN, Extractor, ExtractorConfig
    from codec.markov_palette.train.extractor_onnx import extractor_to_onnx

    config = DecoderConfig(
        semantic_channels=8,
        texture_channels=3,
        states=len(DEPTHS),
        restorer_width=8,
        widths=(16, 12, 8),
        blocks=(1, 1, 1),
        embedding=8,
        variances=((0.1, 0.1), (0.1, 0.3), (0.1, 0.5), (0.3, 0.5), (0.6, 0.5)),
    )
    extractor = Extractor(ExtractorConfig(8, 3, (8, 12, 16), 1))
    decoder = Decoder(config)
    rng = np.random.default_rng(11)
    for module in (extractor, decoder):
        for parameter in module.parameters():
            spread = 0.7 / max(1.0, float(np.sqrt(parameter[0].numel())))
            values = rng.standard_normal(tuple(parameter.shape)) * spread
            parameter.data.copy_(torch.from_numpy(values.astype(np.float32)))
    for head in (extractor.semantic, extractor.texture):
        head.weight.data.div_(LATENT_GAIN)
    files = codec_files() | {
        "extractor.onnx": extractor_to_onnx(extractor.eval()),
        "decoder.safetensors": save(dict(decoder.state_dict())),
    }
    return Bundle.create(folder, tiny_manifest(decoder=config.to_dict()), files)


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def with_model(bundle: Bundle, folder: Path) -> Bundle:
    """The tiny bundle with a PSNR model: decibels of the distortion of both scales."""
    rows = tuple(
        PsnrRow(intercept=-2.0, distortion={"semantic": 1.0, "texture": 0.5}, detail=(0.1, 0, 0),
                margin_db=0.5)
        for _ in bundle.manifest.states
    )  # fmt: skip
    manifest = bundle.manifest.model_copy(update={"psnr_model": PsnrModel(rows=rows, share=0.9)})
    return Bundle.create(folder, manifest, {n: bundle.read(n) for n in bundle.manifest.files})
