"""Makes the golden files. Run once per format: what is committed must decode the same for ever.

python -m tests.golden.make
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np

from codec.markov_palette.codec import MarkovPaletteCodec
from codec.registry import open_codec
from shared.bundle import Bundle
from tests.support.tiny_bundle import make_codec_bundle

FOLDER = Path(__file__).parent
SIZES = ((16, 16), (33, 97), (320, 200))
POINTS = ((4, 0), (4, 5), (3, 0), (2, 0), (2, 1), (1, 0), (1, 2), (0, 0))
"""(state, passes of the next layer) of the tiny chain."""


def index_hash(indices: dict[str, np.ndarray]) -> str:
    """SHA-256 over the planes' names, shapes and little-endian int32 indices."""
    digest = hashlib.sha256()
    for name in sorted(indices):
        digest.update(f"{name}{list(indices[name].shape)}".encode())
        digest.update(np.ascontiguousarray(indices[name], "<i4").tobytes())
    return digest.hexdigest()


def smooth_features(width: int, height: int) -> dict[str, np.ndarray]:
    """Features with structure: sums of waves, so that contexts matter."""
    rows, columns = -(-height // 16), -(-width // 16)
    features = {}
    for name, channels, factor in (("semantic", 8, 1), ("texture", 3, 2)):
        y, x = np.mgrid[0 : rows * factor, 0 : columns * factor] / factor
        waves = [
            np.sin(0.7 * k + x / (1 + k % 3)) * np.cos(y / (2 + k % 2)) for k in range(channels)
        ]
        features[name] = np.stack(waves).astype(np.float32)
    return features


def main() -> None:
    """Write the bundle, the bitstreams, and golden.json."""
    with tempfile.TemporaryDirectory() as folder:
        (FOLDER / "codec-bundle.zip").write_bytes(make_codec_bundle(Path(folder)).to_zip())
    bundle = Bundle.load(FOLDER / "codec-bundle.zip")
    codec = open_codec(bundle)
    assert isinstance(codec, MarkovPaletteCodec)
    records = []
    for width, height in SIZES:
        indices = codec.quantise(smooth_features(width, height))
        for state, passes in POINTS:
            bitstream = codec.code(indices, width, height, state=state, passes=passes)
            part = f"-passes{passes}" if passes else ""
            name = f"{width}x{height}-state{state}{part}.fwf"
            (FOLDER / name).write_bytes(bitstream.to_bytes())
            records.append(
                {
                    "file": name,
                    "file_sha256": hashlib.sha256(bitstream.to_bytes()).hexdigest(),
                    "indices_sha256": index_hash(codec.decode_indices(bitstream)),
                }
            )
    facts = {"bundle_id": bundle.id, "files": records}
    (FOLDER / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
