"""The edge process that the test kills: numbered pictures, the next one after the last spooled.

crashing_edge.py ADDRESS BUNDLE SPOOL RESULTS PICTURES [STOP]: picture n is ``width(n)`` pixels
wide. A line goes to stdout when the session runs; each result is appended to RESULTS as JSON. There
are no new pictures once there is a file STOP. The exit status is KEPT
when frames are left in the spool.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_client.session import EdgeSession
from edge_client.spool import Spool

KEPT = 75
"""Exit status when frames are left in the spool, because no server was there for too long."""

PAUSE_S = float(os.environ.get("PAUSE_S", "0.004"))


def width(number: int) -> int:
    """Of picture ``number``, in pixels: neighbours differ, and none is large."""
    return 32 + number % 307


def main() -> None:
    address, bundle, folder, results, pictures, *stop = sys.argv[1:]
    with (
        Spool.open(folder) as spool,
        EdgeSession(address, device="camera", bundle=Path(bundle), spool=spool) as session,
        open(results, "a") as log,
    ):
        print("running", flush=True)

        def rest() -> Iterator[NDArray[np.uint8]]:
            while spool.last_sequence < int(pictures) and not any(map(os.path.exists, stop)):
                number = spool.last_sequence + 1
                rng = np.random.default_rng(number)
                yield rng.integers(0, 255, (48, width(number), 3)).astype(np.uint8)
                time.sleep(PAUSE_S)

        kept = False
        for result in session.stream(rest(), tasks=["record"]):
            if result.error is not None and result.error.reason == "spooled":
                kept = True  # its result is still to come
                continue
            wide = result.analysis.width if result.analysis is not None else None
            reason = result.error.reason if result.error is not None else None
            record = {"pid": os.getpid(), "sequence": result.sequence, "width": wide}
            log.write(json.dumps(record | {"error": reason}) + "\n")
            log.flush()
    sys.exit(KEPT if kept else 0)


if __name__ == "__main__":
    main()
