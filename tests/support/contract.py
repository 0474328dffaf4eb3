"""What the contract test needs of a codec: a small bundle of it, and golden files in its folder.

python -m tests.support.contract NAME    makes the golden files of a new codec
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.base import codec_names, open_cloud, open_edge, small_bundle
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.targets import RateTarget
from tests.support.composed import ROOT

SIZES = ((16, 16), (33, 97), (160, 100))


def golden_folder(name: str) -> Path:
    """Where a codec's golden files are: bundle.zip, golden.json, and .fwf files."""
    return ROOT / "codec" / name.replace("-", "_") / "golden"


def golden(name: str) -> dict[str, Any]:
    """Of golden.json: ``bundle_id``, and ``files`` with ``file``, ``file_sha256`` and
    ``latents_sha256``."""
    path = golden_folder(name) / "golden.json"
    if not path.is_file():
        command = f"python -m tests.support.contract {name}"
        raise FileNotFoundError(f"codec {name} has no golden files yet: {command} makes them")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with some noise: uint8 [height, width, 3], the same on every machine."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 16) + 1, -(-width // 16) + 1, 3))
    smooth = np.kron(coarse, np.ones((16, 16, 1), int))[:height, :width]
    noisy = smooth + rng.integers(-9, 10, smooth.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def print_checksums(name: str) -> None:
    """Every golden file and the checksum of what it decodes to, a line each."""
    folder = golden_folder(name)
    codec = open_cloud(Bundle.load(folder / "bundle.zip"))
    for path in sorted(folder.glob("*.fwf")):
        print(path.name, codec.decode(Bitstream.from_bytes(path.read_bytes())).checksum().hex())


def index_hash(indices: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over planes' names, shapes and little-endian int32 indices."""
    digest = hashlib.sha256()
    for name in sorted(indices):
        digest.update(f"{name}{list(indices[name].shape)}".encode())
        digest.update(np.ascontiguousarray(indices[name], "<i4").tobytes())
    return digest.hexdigest()


def write_golden(name: str) -> None:
    """Make a codec's golden files: every state of some sizes, and a cut file. All or none."""
    with tempfile.TemporaryDirectory(dir=golden_folder(name).parent) as unfinished:
        folder = Path(unfinished) / "golden"
        folder.mkdir()
        _write_golden(name, folder)
        folder.rename(golden_folder(name))


def _write_golden(name: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as small:
        (folder / "bundle.zip").write_bytes(small_bundle(name, Path(small)).to_zip())
    bundle = Bundle.load(folder / "bundle.zip")
    edge = open_edge(bundle)
    records = []
    for width, height in SIZES:
        photo = picture(width, height)
        made = {f"state{s.state}": RateTarget(state=s.state) for s in bundle.manifest.states}
        made["cut"] = RateTarget(max_bytes=edge.encode(photo).file_bytes - 3)
        for kind, target in made.items():
            bitstream = edge.encode(photo, target)
            file = folder / f"{width}x{height}-{kind}.fwf"
            file.write_bytes(bitstream.to_bytes())
            records.append(
                {
                    "file": file.name,
                    "file_sha256": hashlib.sha256(bitstream.to_bytes()).hexdigest(),
                    "latents_sha256": edge.decode(bitstream).checksum().hex(),
                }
            )
    facts = {"bundle_id": bundle.id, "files": records}
    (folder / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    (wanted,) = sys.argv[1:]
    if wanted not in codec_names() or golden_folder(wanted).exists():
        sys.exit(f"{wanted} is no codec, or has golden files already; they are never made again")
    write_golden(wanted)
