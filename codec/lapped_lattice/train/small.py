"""A small bundle without data or training: the linear codec, with contexts drawn by chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.lapped_lattice import VIVID
from codec.lapped_lattice.contexts import LappedContexts
from codec.lapped_lattice.lattice import LappedPalette
from codec.lapped_lattice.networks import LITTLE, LappedDecoder
from codec.lapped_lattice.train.basis import best_basis
from codec.lapped_lattice.train.bundle import lapped_palette, with_decoder, write_bundle
from codec.lapped_lattice.train.contexts import LAPPED, key_frames_only
from codec.lapped_lattice.train.decoders.fit import begin_with
from codec.lapped_lattice.train.fit import start_linear
from codec.lapped_lattice.train.networks import Analysis
from codec.lapped_lattice.train.recipe import SCALE, LappedRecipe
from codec.lattice_palette.nested.network import OUTPUTS, BitNetwork
from codec.lattice_palette.nested.surroundings import CLASSES
from codec.lattice_palette.train.nested.contexts import plain_contexts
from codec.lattice_palette.train.nested.lattices import make_nested
from shared.bundle import Bundle

SMALL: dict[str, Any] = {
    "codec": "lapped-lattice",
    "name": "small-lapped",
    "photos": {"sources": [{"path": "."}]},
    "transform": {"channels": 12, "samples": 4},
    "decoder": {"width": 8, "blocks": 1, "detail_width": 6, "detail_blocks": 1, "carried": 2},
    "groups": [3, 9],
    "nested": {
        "depths": [3, 2],
        "states": [[3, 2], [2, 1], [1, 0]],
        "step": 10,
        "weights": [0.1, 0.1, 0.1],
    },
    "dead": 0.15,
    "fit": {"crop": 64, "batch": 2, "decoder_steps": 4, "held_out": 1},
}
"""A recipe, for tests too."""
_HIDDEN, _WIDTH = 6, 5


def small_bundle(folder: Path, *, predicts: bool) -> Bundle:
    """The bundle ``small-lapped``; see :func:`codec.base.small_bundles`. predicts: whether it has
    contexts of predicted frames, and a second decoder."""
    recipe = LappedRecipe.model_validate(SMALL)
    rng = np.random.default_rng(5)
    rough = rng.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    basis = best_basis(np.kron(rough, np.ones((1, 8, 8, 1), np.uint8)), 12, 1.3)
    analysis = Analysis(basis.counts, recipe.analysis.width, recipe.analysis.blocks)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        decoder = LappedDecoder(recipe.decoder_config())
        for layer in (decoder.leave, decoder.leave_detail):
            torch.nn.init.normal_(layer.weight, std=0.02)
    start_linear(analysis, decoder, basis)
    reach = torch.from_numpy(basis.deviations).float()[None, :, None, None]
    latents = {SCALE: torch.cat([3 * reach, -3 * reach])}
    made = make_nested(recipe.nested, {SCALE: recipe.groups}, recipe.step, latents)
    palette = lapped_palette(made, recipe.dead, recipe.lean)
    rates = [0.1, 0.05, 0.02]
    contexts = _contexts(palette, predicts=predicts)
    bundle = write_bundle(recipe, palette, contexts, analysis, decoder, rates, folder)
    return with_decoder(bundle, VIVID, _another(decoder), folder) if predicts else bundle


def _another(decoder: LappedDecoder) -> LappedDecoder:
    """A decoder with a block more, which paints otherwise and draws what is not told."""
    config = decoder.config
    other = LappedDecoder(replace(config, detail_blocks=config.detail_blocks + 1, sampled=1))
    begin_with(other, decoder)
    assert other.spread is not None
    assert other.spread.bias is not None
    with torch.no_grad():
        other.leave_detail.weight.mul_(3)
        other.spread.bias.fill_(LITTLE)
    return other


def _contexts(palette: LappedPalette, *, predicts: bool) -> LappedContexts:
    """Networks that look at everything, with weights drawn by chance."""
    contexts = plain_contexts(palette, LAPPED)
    assert isinstance(contexts, LappedContexts)
    if not predicts:
        contexts = key_frames_only(contexts)
    rng = np.random.default_rng(3)
    networks = {}
    for name, start in contexts.networks.items():
        outputs = start.out.shape[1]
        networks[name] = BitNetwork(
            rng.integers(-9, 10, (start.inputs, _HIDDEN)).astype(np.int16),
            rng.integers(-300, 301, _HIDDEN).astype(np.int32),
            rng.integers(-9, 10, (_HIDDEN, _WIDTH)).astype(np.int16),
            rng.integers(-300, 301, _WIDTH).astype(np.int32),
            rng.integers(-9, 10, (_WIDTH, outputs)).astype(np.int16),
            np.repeat(np.array([-40, 0, -20, 20], np.int32) << 6, outputs // OUTPUTS),
            np.array([4, 4, 6], np.int32),
            rng.integers(-30, 31, (OUTPUTS, CLASSES, start.channels)).astype(np.int16),
        )
    return LappedContexts(palette, networks, contexts.odds, contexts.bent, contexts.where)
