"""How often a feature bundle's classes are the whole network's, beside AVIF at as many bytes.

The reference is the uncut network on the same picture at its input's size; no truth is needed.
AVIF codes that small picture (or a smaller one still, enlarged again: at low rates the strong
baseline), and the whole network reads what is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from PIL import Image, features

from codec.lattice_palette.train.networks.base import SplitNetwork
from codec.registry import open_codec
from codec.settings import FeatureSettings
from codec.tails.task import TailNetwork
from shared.bundle import Bundle
from shared.targets import RateTarget
from training.evaluate.photos import EvaluationPhoto

Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]

_SIDES = (1.0, 0.7, 0.5, 0.35)
_QUALITIES = (0, 4, 10, 20, 32, 46, 62)
_BEST = 5


@dataclass(frozen=True)
class ClassFigures:
    """Means over photos. name: a state's number, or a rival's size and quality. same_best: share
    of photos with the reference's best class first; among_best: among the first five.
    """

    name: str
    bytes: float
    same_best: float
    among_best: float
    encode_ms: float


def evaluate_classes(
    bundle: Bundle,
    network: SplitNetwork,
    photos: Sequence[EvaluationPhoto],
    *,
    rivals: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[ClassFigures], list[ClassFigures]]:
    """Every state, finest first, and every AVIF file that was tried, by bytes.

    network: the uncut one. Whole files are counted. Encoding times are one core's.
    """
    (spec,) = [tail for tail in FeatureSettings.of(bundle).tails or () if tail.output == "classes"]
    codec, tail = open_codec(bundle), TailNetwork(bundle, spec)
    edge = _session(bundle)
    names = [scale.name for scale in FeatureSettings.of(bundle).scales]
    states = [row.state for row in bundle.manifest.states]
    found: dict[str, list[list[float]]] = {}
    knobs = [(s, q) for s in _SIDES for q in _QUALITIES]
    if not rivals or not features.check("avif"):
        knobs = []
    for number, photo in enumerate(photos, 1):
        height, width = photo.pixels.shape[:2]
        placement = FeatureSettings.of(bundle).placement(width, height)
        assert placement is not None
        picture = placement.apply(photo.pixels)
        wanted = int(whole_network(network, picture).argmax())
        start = perf_counter()
        grids = dict(zip(names, edge.run(names, {"image": picture}), strict=True))
        network_ms = 1e3 * (perf_counter() - start)
        for state in states:
            start = perf_counter()
            coded = codec.encode(grids, width, height, RateTarget(state=state))
            taken = network_ms + 1e3 * (perf_counter() - start)
            scores = tail.run([codec.decode(coded)])[0]["scores"]
            row = [coded.file_bytes, *_hits(scores, wanted), taken]
            found.setdefault(str(state), []).append(row)
        for side, quality in knobs:
            start = perf_counter()
            data = _avif(picture, side, quality)
            taken = 1e3 * (perf_counter() - start)
            scores = whole_network(network, _decoded(data, picture))
            row = [len(data), *_hits(scores, wanted), taken]
            found.setdefault(f"avif {side:g} q{quality}", []).append(row)
        progress(number, len(photos))
    means = [ClassFigures(name, *map(float, np.mean(rows, 0))) for name, rows in found.items()]
    return means[: len(states)], sorted(means[len(states) :], key=lambda row: row.bytes)


def best_rival(rivals: Sequence[ClassFigures], most_bytes: float) -> ClassFigures | None:
    """Of the rivals that take at most so many bytes the one that agrees most often."""
    fitting = [row for row in rivals if row.bytes <= most_bytes]
    return max(fitting, key=lambda row: (row.same_best, row.among_best), default=None)


def whole_network(network: SplitNetwork, picture: Pixels) -> Scores:
    """Probabilities [K] of a picture at the network's size."""
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        (scores,) = network.finish(network.tail(network.head(image)))
    return np.asarray(scores[0], np.float32)


def _hits(scores: Scores, wanted: int) -> tuple[bool, bool]:
    best = np.argsort(-scores, kind="stable")[:_BEST]
    return bool(best[0] == wanted), wanted in best


def _avif(picture: Pixels, side: float, quality: int) -> bytes:
    image, buffer = Image.fromarray(picture), io.BytesIO()
    if side < 1:
        smaller = (round(image.width * side), round(image.height * side))
        image = image.resize(smaller, Image.Resampling.LANCZOS)
    image.save(buffer, "AVIF", quality=quality, speed=6, max_threads=1)
    return buffer.getvalue()


def _decoded(data: bytes, picture: Pixels) -> Pixels:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    height, width = picture.shape[:2]
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _session(bundle: Bundle) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    data = bundle.read("extractor.onnx")
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
