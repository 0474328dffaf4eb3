"""The edge process that the test kills: numbered pictures, the next one after the last spooled.

crashing_edge.py ADDRESS BUNDLE SPOOL RESULTS PICTURES [STOP]: picture n is ``width(n)`` pixels
wide; where NUMBERED is set it shows its number, and where RESTLESS is, much changes besides. A line
goes to stdout when the session runs; each result is appended to RESULTS as JSON, and to the file
VALUES, before a frame is queued, what its receiver decodes. There are no new pictures once there is
a file STOP, nor while MOST frames have no result. TASK is what is asked for. The exit status is
KEPT when frames are left in the spool.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.base import EdgeCodec
from edge_client.session import EdgeSession
from edge_client.session.groups import Coding
from edge_client.spool import Spool
from shared.bitstream import Bitstream
from tests.support.predicted import numbered, restless

KEPT = 75
"""Exit status when frames are left in the spool, because no server was there for too long."""

PAUSE_S = float(os.environ.get("PAUSE_S", "0.004"))
MOST = float(os.environ.get("MOST", "inf"))


def width(number: int) -> int:
    """Of picture ``number``, in pixels: neighbours differ, and none is large."""
    return 32 + number % 307


def note_values(path: Path) -> None:
    """From here on note the values of every frame that is made, as the encoder has them.

    One of which the process was killed before it was queued is made anew by the next one, which
    notes it again.
    """
    made = Coding.made

    def noted(self: Coding, codec: EdgeCodec[Any, Any], latents: Any, bitstream: Bitstream) -> None:
        made(self, codec, latents, bitstream)
        values = codec.decode(bitstream) if latents is None else latents
        note = {"sequence": self.sequence, "checksum": values.checksum().hex()}
        note |= {"predicted": bitstream.reference is not None}
        with path.open("a") as file:
            file.write(json.dumps(note) + "\n")

    Coding.made = noted  # type: ignore[method-assign]


def main() -> None:
    task = os.environ.get("TASK", "record")
    if "VALUES" in os.environ:
        note_values(Path(os.environ["VALUES"]))
    address, bundle, folder, results, pictures, *stop = sys.argv[1:]
    with (
        Spool.open(folder) as spool,
        EdgeSession(address, device="camera", bundle=Path(bundle), spool=spool) as session,
        open(results, "a") as log,
    ):
        print("running", flush=True)

        def rest() -> Iterator[NDArray[np.uint8] | None]:
            while spool.last_sequence < int(pictures) and not any(map(os.path.exists, stop)):
                stats = spool.stats()
                if stats.frames + stats.awaited >= MOST:
                    time.sleep(PAUSE_S)
                    yield None
                    continue
                number = spool.last_sequence + 1
                if os.environ.get("RESTLESS"):
                    yield restless(number)
                elif os.environ.get("NUMBERED"):
                    yield numbered(number)
                else:
                    rng = np.random.default_rng(number)
                    yield rng.integers(0, 255, (48, width(number), 3)).astype(np.uint8)
                time.sleep(PAUSE_S)

        kept = False
        for result in session.stream(rest(), tasks=[task]):
            if result.error is not None and result.error.reason == "spooled":
                kept = True  # its result is still to come
                continue
            wide = result.analysis.width if result.analysis is not None else None
            reason = result.error.reason if result.error is not None else None
            record = {"pid": os.getpid(), "sequence": result.sequence, "width": wide}
            found = result.analysis.tasks[task].detections if result.analysis is not None else None
            record["shown"] = found[0].class_id if found else None
            record["predicted"] = session.groups.predicted_frames
            log.write(json.dumps(record | {"error": reason}) + "\n")
            log.flush()
    sys.exit(KEPT if kept else 0)


if __name__ == "__main__":
    main()
