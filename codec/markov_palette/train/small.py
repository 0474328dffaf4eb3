"""A small seeded bundle with real files of every kind, for tests that need no trained weights.

The extractor is a real ONNX graph, the decoder has real (random) weights; both are small. It is
the same on every machine: weights come from numpy's PCG64, whose streams are fixed.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save

from codec.markov_palette.cloud import PICTURES
from codec.markov_palette.context_network import (
    COARSE_STEPS,
    MATE_STEPS,
    ODDS_LIMIT,
    OWN_STEPS,
    PASSES,
    PLACE_INPUTS,
    PlaneNetwork,
    Trunk,
    padded_channels,
)
from codec.markov_palette.contexts import ContextModel, relations
from codec.markov_palette.networks import Decoder, DecoderConfig
from codec.markov_palette.palette import MarkovPalette, PaletteTree
from codec.markov_palette.temporal.change_network import ChangeNetwork, layers_of
from codec.markov_palette.temporal.contexts import STATUS_COLUMNS, TemporalModel, inputs_of
from codec.markov_palette.train.extractor_onnx import extractor_to_onnx
from codec.markov_palette.train.networks import (
    LATENT_BOUND,
    LATENT_GAIN,
    Extractor,
    ExtractorConfig,
)
from codec.settings import (
    DiffusionState,
    FeatureSettings,
    PlaneSpec,
    ScaleSpec,
    create_bundle,
)
from shared.bundle import Bundle, Manifest

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
HIDDEN, WIDTH, TRUNK, FEATURES = 6, 4, 8, 3
ODDS = np.linspace(200, 65336, 2 * ODDS_LIMIT + 1).astype(np.uint16)


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


def tiny_contexts(palette: MarkovPalette, ratio: int = 2, seed: int = 5) -> ContextModel:
    """A context model for ``palette``; each scale is ``ratio`` times as fine as the last."""
    rng = np.random.default_rng(seed)
    mates, coarser = relations(palette.planes)
    columns = {plane.name: padded_channels(plane.channels) for plane in palette.planes}
    networks = {
        plane.name: _tiny_network(
            plane,
            columns[plane.name],
            sum(columns[name] for name in mates[plane.name]),
            sum(columns[name] for name in coarser[plane.name]),
            ratio,
            rng,
        )
        for plane in palette.planes
    }
    return ContextModel(palette, networks, ODDS)


def tiny_temporal(contexts: ContextModel, ratio: int = 2, seed: int = 6) -> TemporalModel:
    """What predicted frames need; positions near others that change are likelier to do so."""
    rng = np.random.default_rng(seed)
    palette = contexts.palette
    columns = {plane.name: padded_channels(plane.channels) for plane in palette.planes}
    splits, changes = {}, {}
    for plane in palette.planes:
        name, layers = plane.name, len(layers_of(palette, plane.name))
        groups, nodes = PASSES * layers, 2 ** (plane.depth + 1) - 1
        beside = sum(columns[mate] for mate in contexts.mates[name])
        above = sum(columns[other] for other in contexts.coarser[name])
        splits[name] = _tiny_network(
            plane, columns[name], beside + columns[name] + STATUS_COLUMNS, above, ratio, rng
        )
        changes[name] = ChangeNetwork(
            weights=rng.integers(0, 21, (groups, inputs_of(contexts, name), HIDDEN), np.int16),
            entry=rng.integers(-300, 301, (nodes, HIDDEN), np.int32),
            readout=rng.integers(0, 31, (groups, HIDDEN), np.int16),
            bias=rng.integers(-9000, -7000, groups, np.int32),
            prior=rng.integers(-300, 301, nodes, np.int32),
            still=np.full(layers, 1 << 15, np.uint16),
            shifts=np.tile(np.array([[5], [5]], np.int32), (1, groups)),
            costs=np.tile(
                np.linspace([0.1, 6], [1, 1], 9, dtype=np.float32).T[:, None], (layers, 1)
            ),
        )
    return TemporalModel(contexts, splits, changes)


def _tiny_network(
    plane: PlaneSpec, own: int, beside: int, above: int, ratio: int, rng: np.random.Generator
) -> PlaneNetwork:
    """own, beside, above: columns of the plane, of others of its scale, and of the coarser one."""

    def weights(*shape: int) -> npt.NDArray[Any]:
        return rng.integers(-20, 21, shape).astype(np.int16)

    def biases(*shape: int) -> npt.NDArray[Any]:
        return rng.integers(-3000, 3001, shape).astype(np.int32)

    groups, nodes = PASSES * plane.depth, 2**plane.depth - 1
    trunk = Trunk(
        weights(len(COARSE_STEPS) * above, TRUNK),
        biases(TRUNK),
        weights(TRUNK, ratio**2 * FEATURES),
        biases(ratio**2 * FEATURES),
        np.array([5, 4], np.int32),
    )
    return PlaneNetwork(
        own=weights(groups, len(OWN_STEPS) * own, HIDDEN),
        mates=weights(groups, len(MATE_STEPS) * beside, HIDDEN),
        place=weights(groups, PLACE_INPUTS + (FEATURES if above else 0), HIDDEN),
        entry=biases(nodes, HIDDEN),
        summary=weights(groups, HIDDEN, WIDTH),
        summary_bias=biases(groups, WIDTH),
        readout=weights(nodes, WIDTH),
        prior=biases(nodes),
        shifts=np.tile(np.array([[5], [5], [5]], np.int32), (1, groups)),
        trunk=trunk if above else None,
    )


def codec_files(seed: int = 7) -> dict[str, bytes]:
    """palette.npz and contexts.npz of the tiny bundle."""
    palette = tiny_palette(seed)
    contexts = tiny_contexts(palette)
    arrays = contexts.to_arrays() | tiny_temporal(contexts).to_arrays()
    return {"palette.npz": _npz(palette.to_arrays()), "contexts.npz": _npz(arrays)}


def tiny_manifest(codec: str = "markov-palette", **changes: object) -> Manifest:
    """The tiny bundle's manifest, before its files are known. changes: of settings."""
    values: dict[str, object] = {
        "scales": SCALES,
        "planes": PLANES,
        "states": STATES,
        "input_multiple": 16,
        "halo_positions": 8,
    }
    settings = FeatureSettings.model_validate(values | changes)
    pictures = PICTURES if settings.decoder else ()
    return settings.manifest(pictures, name="tiny", version="1", codec=codec)


def small_bundle(folder: Path) -> Bundle:
    """The complete tiny bundle: extractor.onnx and decoder.safetensors too."""
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
    heads = (extractor.semantic, extractor.texture)
    for head in heads:
        head.weight.data.div_(LATENT_GAIN).mul_(5)  # as wide as the palette
    drawn = torch.from_numpy(rng.random((1, 3, 64, 64), np.float32)) - 0.5
    with torch.inference_mode():
        for head, features in zip(heads, extractor.eval()(drawn), strict=True):
            # To the middle of the palette, where the positions of a picture differ at every depth.
            middle = torch.atanh(features / LATENT_BOUND).mean((0, 2, 3)) / LATENT_GAIN
            assert head.bias is not None
            head.bias.data.sub_(middle).round_()
    files = codec_files() | {
        "extractor.onnx": extractor_to_onnx(extractor.eval()),
        "decoder.safetensors": save(dict(decoder.state_dict())),
    }
    return create_bundle(folder, tiny_manifest(decoder=config.to_dict()), files)


def _npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
