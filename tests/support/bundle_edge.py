"""The edge process that the test kills: sends numbered pictures until it is killed, or told to end.

bundle_edge.py ADDRESS BUNDLE FOLDER STOP: each result is appended to FOLDER/results as JSON; it
ends when the file STOP is there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_client.session import EdgeSession
from edge_client.spool import Spool


def main() -> None:
    address, bundle, folder, stop = sys.argv[1:]
    with (
        Spool.open(Path(folder) / "spool") as spool,
        EdgeSession(
            address,
            device="cam",
            bundle=Path(bundle),
            spool=spool,
            bundle_cache_dir=Path(folder) / "cache",
        ) as session,
        open(Path(folder) / "results", "a") as log,
    ):
        print("running", flush=True)

        def pictures() -> Iterator[NDArray[np.uint8]]:
            while not Path(stop).exists():
                number = spool.last_sequence + 1
                rng = np.random.default_rng(number)
                yield rng.integers(0, 255, (48, 32 + number % 200, 3)).astype(np.uint8)
                time.sleep(0.01)

        for result in session.stream(pictures(), tasks=["record"], state=4):
            reason = result.error.reason if result.error is not None else None
            bundle_id = result.bundle_id.hex()
            record = {"sequence": result.sequence, "bundle": bundle_id, "error": reason}
            log.write(json.dumps(record) + "\n")
            log.flush()


if __name__ == "__main__":
    main()
