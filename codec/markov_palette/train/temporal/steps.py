"""The steps from moving material to networks of predicted frames, and to a bundle that has them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch

from codec.base import FloatArray, Pixels, Report
from codec.kit.checkpoint import npz
from codec.kit.crops import PhotoCache
from codec.kit.photos import CACHE, bundle_figures, need
from codec.kit.sequences import material
from codec.markov_palette.coding import MarkovPaletteCodec, PaletteChain
from codec.markov_palette.temporal.contexts import TemporalModel
from codec.markov_palette.train.bundle import TEMPORAL_FILE, RunFiles, trained_extractor
from codec.markov_palette.train.recipe import Recipe
from codec.markov_palette.train.temporal.fit import fit_temporal
from codec.markov_palette.train.temporal.transitions import (
    Transition,
    change_costs,
    plain_temporal,
    transitions,
)
from codec.onnx import FeatureExtractor
from codec.settings import CONTEXTS_FILE, FeatureSettings
from shared.bundle import Bundle
from shared.errors import RecipeError
from shared.preprocess import pad_to_multiple

SEQUENCES: Final = "sequences"
"""Folder of the sequences step in a run's."""
_CARD = "MODEL_CARD.md"

BundleFolder = Annotated[
    Path | None, "A finished bundle's folder, whose network and palette are taken, not the run's."
]


def write_sequences(
    recipe: Recipe,
    run: Path,
    report: Report,
    *,
    data: Annotated[Path | None, "The folder that the recipe's sequences are relative to."] = None,
    bundle: BundleFolder = None,
) -> dict[str, Any]:
    """Features of moving material, for the networks of predicted frames."""
    part, folder = recipe.sequences, run / SEQUENCES
    extract = _extractor(recipe, run, bundle)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.npz"):
        old.unlink()
    done = frames = 0

    def keep(piece: list[Pixels]) -> None:
        nonlocal done, frames
        found = [extract(frame) for frame in piece]
        grids = {
            scale: np.stack([features[scale] for features in found]).astype(np.float16)
            for scale in found[0]
        }
        (folder / f"{done:05d}.npz").write_bytes(npz(grids))
        done, frames = done + 1, frames + len(piece)
        report(done, done + 1, {})

    rng = np.random.default_rng(part.seed)
    photos: Iterable[Pixels] = ()
    if part.photos:
        need(run / CACHE / "photos.json", "photos")
        photos = PhotoCache(run / CACHE).drawn(part.photos, rng)
    for piece in material(part, data or Path(), photos, rng):
        keep(piece)
    return {"pieces": done, "frames": frames}


def write_temporal(
    recipe: Recipe,
    run: Path,
    report: Report,
    *,
    bundle: BundleFolder = None,
    output: Annotated[Path | None, "With --bundle: folder of that bundle with predictions."] = None,
    card: Annotated[Path | None, "A model card (Markdown) for --output."] = None,
) -> dict[str, Any]:
    """Fit the networks of predicted frames; say what they save on pieces they were not fitted to.

    The streams that they are fitted to are what an encoder makes of the pieces: once by a guess of
    what changes cost, and again by what they were found to cost.
    """
    if (output is None) != (bundle is None):
        raise RecipeError("bad_recipe", "--bundle and --output go together")
    if bundle is None:
        need(run / "draft" / CONTEXTS_FILE, "tables")
    based_on = Bundle.load(bundle or run / "draft")
    chain = MarkovPaletteCodec(based_on).chains[0]
    pieces = list(read_sequences(run))
    held_out, fitted_on = pieces[::8], [p for n, p in enumerate(pieces) if n % 8]
    if not fitted_on or any(len(grid) < 2 for piece in pieces for grid in piece.values()):
        raise RecipeError("bad_recipe", "it takes two pieces of two frames at least")
    part = recipe.temporal
    states = [min(state, chain.palette.coarsest_state) for state in part.states]
    plain = plain_temporal(chain.contexts)
    seed = recipe.fit.seed
    first = transitions(plain, fitted_on, states, seed)
    guess = TemporalModel(
        chain.contexts,
        plain.splits,
        {
            name: network.with_costs(change_costs(chain.palette, first, name))
            for name, network in plain.changes.items()
        },
    )
    moves = transitions(guess, fitted_on, states, seed)
    model = fit_temporal(
        chain.contexts,
        guess,
        moves,
        part.settings(seed),
        progress=lambda done, of: report(done, of, {}),
    )
    (run / TEMPORAL_FILE).write_bytes(npz(model.to_arrays()))
    figures: dict[str, Any] = {
        "pieces": len(fitted_on),
        "transitions": len(moves),
        "held_out_bytes": _compared(
            chain.with_temporal(model), based_on, transitions(model, held_out, (0,), seed)
        ),
    }
    if output is not None:
        figures |= bundle_figures(_renewed(based_on, model, output, card, recipe), output)
    return figures


def read_sequences(run: Path) -> Iterator[Mapping[str, FloatArray]]:
    """What :func:`write_sequences` left, piece by piece. Raises RecipeError ``step_missing``."""
    files = sorted((run / SEQUENCES).glob("*.npz"))
    if not files:
        raise RecipeError("step_missing", f"no pieces in {run / SEQUENCES}: run sequences first")
    for file in files:
        with np.load(io.BytesIO(file.read_bytes())) as stored:
            yield dict(stored)


def _extractor(recipe: Recipe, run: Path, bundle: Path | None) -> Any:
    if bundle is not None:
        return FeatureExtractor(Bundle.load(bundle), precision="fp32")
    network = trained_extractor(recipe, RunFiles(run))

    def extract(frame: Pixels) -> dict[str, FloatArray]:
        padded = pad_to_multiple(frame, max(scale.stride for scale in recipe.scales))
        with torch.inference_mode():
            picture = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255 - 0.5
            found = network(picture)
        return {
            scale.name: grid[0].numpy() for scale, grid in zip(recipe.scales, found, strict=True)
        }

    return extract


def _compared(
    chain: PaletteChain, bundle: Bundle, moves: list[Transition]
) -> dict[str, list[float]]:
    """Mean bytes of a frame at every state, finest first, as a key frame and predicted."""
    strides = {scale.name: scale.stride for scale in FeatureSettings.of(bundle).scales}
    rows: dict[str, list[list[int]]] = {"key": [], "predicted": []}
    for move in moves:
        plane = chain.palette.planes[0]
        rows_of, columns = move.after[plane.name].shape
        width, height = strides[plane.scale] * columns, strides[plane.scale] * rows_of
        reference = chain.decode(chain.code(move.before, width, height))
        for kind, known in (("key", None), ("predicted", reference)):
            made = chain.code(move.after, width, height, reference=known)
            rows[kind].append(list(made.cumulative_bytes().values())[::-1])
    return {
        kind: [round(float(value), 1) for value in np.mean(found, axis=0)]
        for kind, found in rows.items()
        if found
    }


def _renewed(
    bundle: Bundle, model: TemporalModel, output: Path, card: Path | None, recipe: Recipe
) -> Bundle:
    """The bundle with networks of predicted frames, in the recipe's version."""
    manifest = bundle.manifest.model_copy(update={"version": recipe.version})
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    contents[CONTEXTS_FILE] = npz(model.contexts.to_arrays() | model.to_arrays())
    if card is not None:
        contents[_CARD] = card.read_bytes()
    return Bundle.create(output, manifest, contents)
