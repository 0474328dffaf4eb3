"""Run by the test on a disk that fills up: spool_on_full_disk.py ADDRESS BUNDLE FOLDER.

Sends to a server that is not there until the disk is full, then to ADDRESS. Prints JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from edge_client.session import EdgeSession
from edge_client.spool import Spool
from shared.bundle import Bundle


def main() -> None:
    address, bundle_folder, folder = sys.argv[1:]
    bundle = Bundle.load(Path(bundle_folder))
    pictures = [
        np.random.default_rng(n).integers(0, 255, (256, 256 + n % 8, 3)).astype(np.uint8)
        for n in range(160)
    ]
    report: dict[str, object] = {}
    with Spool.open(folder) as spool:
        with EdgeSession(
            "127.0.0.1:1", bundle=bundle, spool=spool, connect_timeout_s=0.5
        ) as session:
            results = list(session.stream(pictures, tasks=[]))
        report["offline"] = Counter(r.error.reason for r in results if r.error is not None)
        report["kept"] = spool.stats().frames
        with EdgeSession(address, bundle=bundle, spool=spool) as session:
            delivered = list(session.flush())
            report["delivered"] = [r.sequence for r in delivered if r.error is None]
            report["left"] = spool.stats().frames
            again = list(session.stream(pictures, tasks=[]))
            report["again"] = Counter(r.error.reason if r.error else "ok" for r in again)
        report["counts"] = spool.stats().counts
    with Spool.open(folder) as spool:
        report["reopened"] = spool.stats().frames
    print(json.dumps(report))


if __name__ == "__main__":
    main()
