"""Makes the golden file of the default bundle; run it when the default bundle changes.

python -m tests.golden.make_default
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from cloud_server.engine.files import BitstreamDecoder
from codec.markov_palette.coding import MarkovPaletteCodec
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from tests.support.contract import index_hash

FOLDER = Path(__file__).parent / "default"
STATES_PICTURED = (0, 5)


def main() -> None:
    """Encode a packaged photo with the default bundle; note indices and reduced pictures."""
    from skimage import data

    FOLDER.mkdir(exist_ok=True)
    bundle = Bundle.load()
    codec = MarkovPaletteCodec(bundle)
    bitstream = EdgeEncoder(bundle, precision="fp32").encode(
        np.ascontiguousarray(data.coffee()), state=0
    )
    (FOLDER / "coffee.fwf").write_bytes(bitstream.to_bytes())
    decoder = BitstreamDecoder(bundle)
    for state in STATES_PICTURED:
        picture = Image.fromarray(decoder.picture(bitstream.truncate(state)))
        picture.resize((150, 100), Image.Resampling.BOX).save(FOLDER / f"coffee-state{state}.png")
    facts = {
        "bundle_id": bundle.id,
        "indices_sha256": {
            str(state): index_hash(codec.decode(bitstream.truncate(state)).indices)
            for state in range(bundle.manifest.coarsest_state + 1)
        },
    }
    (FOLDER / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
