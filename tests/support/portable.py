"""What every processor must agree on, bit for bit: golden files decoded, and frames encoded.

    python -m tests.support.portable    prints one JSON document; numpy is all that it needs

Networks are left out: it runs where there is no ONNX Runtime. Frames are encoded from features that
are golden ones with noise of whole 64ths added, so that no two values depend on how a sum rounds.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from codec.base import codec_names, open_edge
from codec.features import FeatureEdge, PreparedPhoto
from shared.bitstream import FORMAT_VERSIONS, Bitstream
from shared.bundle import Bundle
from shared.targets import RateTarget

ROOT = Path(__file__).resolve().parents[2]
STREAMS = "streams"
LARGE = 24
"""Golden files of more than so many pixels on each side are encoded from, too."""


def golden_folder(name: str) -> Path:
    """Where a codec's golden files are: bundle.zip, golden.json, and .fwf files."""
    return ROOT / "codec" / name.replace("-", "_") / "golden"


def decoded(name: str) -> dict[str, str]:
    """The check sum of what each golden file says, by the file's name; SHA-256 in hex."""
    folder = golden_folder(name)
    edge = open_edge(Bundle.load(folder / "bundle.zip"))
    return {
        path.relative_to(folder).as_posix(): edge.decode(Bitstream.from_bytes(path.read_bytes()))
        .checksum()
        .hex()
        for path in sorted(folder.rglob("*.fwf"))
        if STREAMS not in path.parts
    } | streams(name)


def streams(name: str) -> dict[str, str]:
    """The same of golden streams: folders of frames of which each is decoded with the one before,
    whole, and at the coarsest state of all."""
    found = {}
    whole = golden_folder(name)
    for folder in sorted(path.parent for path in (whole / STREAMS).glob("*/bundle.zip")):
        edge = open_edge(Bundle.load(folder / "bundle.zip"))
        before = coarse_before = None
        for path in sorted(folder.glob("*.fwf")):
            bitstream = Bitstream.from_bytes(path.read_bytes())
            before = edge.decode(bitstream, reference=before)
            coarse = bitstream.truncate(bitstream.layers[0].state)
            coarse_before = edge.decode(coarse, reference=coarse_before)
            both = before.checksum() + coarse_before.checksum()
            found[path.relative_to(golden_folder(name)).as_posix()] = hashlib.sha256(
                both
            ).hexdigest()
    return found


def encoded(name: str) -> dict[str, str]:
    """The SHA-256 of files encoded at every state, and at budgets that cut layers into passes, in
    every version of the format."""
    folder = golden_folder(name)
    bundle = Bundle.load(folder / "bundle.zip")
    edge = open_edge(bundle)
    if not isinstance(edge, FeatureEdge):
        return {}
    made = {}
    for path in sorted(folder.glob("*state0.fwf")):
        latents = edge.decode(Bitstream.from_bytes(path.read_bytes()))
        if min(latents.width, latents.height) < LARGE:
            continue
        rng = np.random.default_rng(7)
        noisy = {
            scale: values + (rng.integers(-9, 10, values.shape) / 64).astype(np.float32)
            for scale, values in sorted(latents.scales.items())
        }
        photo = np.zeros((latents.height, latents.width, 3), np.uint8)
        prepared = PreparedPhoto(photo, noisy)
        finest = edge.encode(prepared)
        targets = {
            f"state{row.state}": RateTarget(state=row.state) for row in bundle.manifest.states
        }
        for part in (3, 7, 11):
            budget = finest.file_bytes - part
            targets[f"shorter{part}"] = RateTarget(max_bytes=budget)
        for kind, target in targets.items():
            for version in FORMAT_VERSIONS:
                data = edge.encode(prepared, target, version=version).to_bytes()
                made[f"{path.stem} {kind} v{version}"] = hashlib.sha256(data).hexdigest()
    return made


def main() -> None:
    """Print what this processor makes of it."""
    names = codec_names()
    report = {
        "machine": platform.machine(),
        "constriction": find_spec("constriction") is not None,
        "decoded": {name: decoded(name) for name in names},
        "encoded": {name: encoded(name) for name in names},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
