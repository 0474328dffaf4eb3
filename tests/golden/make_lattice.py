"""Makes the golden files of the lattice codec, as :mod:`tests.golden.make` does.

python -m tests.golden.make_lattice
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from codec.lattice_palette.codec import LatticeCodec
from shared.bundle import Bundle
from shared.targets import RateTarget
from tests.golden.make import index_hash
from tests.support.lattice_bundle import features, make_lattice_bundle

FOLDER = Path(__file__).parent / "lattice"
SIZES = ((16, 16), (33, 97), (320, 200))


def main() -> None:
    """Write the bundle, the bitstreams (one of them cut inside a layer), and golden.json."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (FOLDER / "bundle.zip").write_bytes(make_lattice_bundle(Path(folder)).to_zip())
    bundle = Bundle.load(FOLDER / "bundle.zip")
    codec = LatticeCodec(bundle)
    records = []
    for width, height in SIZES:
        given = features(width, height, seed=width)
        made = {
            f"state{state}": codec.encode(given, width, height, RateTarget(state=state))
            for state in range(bundle.manifest.coarsest_state + 1)
        }
        made["cut"] = codec.shorten(made["state0"], made["state0"].file_bytes - 3)
        for kind, bitstream in made.items():
            name = f"{width}x{height}-{kind}.fwf"
            (FOLDER / name).write_bytes(bitstream.to_bytes())
            records.append(
                {
                    "file": name,
                    "file_sha256": hashlib.sha256(bitstream.to_bytes()).hexdigest(),
                    "values_sha256": index_hash(codec.decode_values(bitstream)),
                }
            )
    facts = {"bundle_id": bundle.id, "files": records}
    (FOLDER / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
