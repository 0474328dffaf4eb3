"""What became of the frames of all simulated devices."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

QUANTILES = (50, 95, 99)


class Tally:
    """Counts and latencies. Latencies are of frames that were sent while ``measuring``."""

    def __init__(self) -> None:
        self.measuring = False
        self.connected = 0
        self.connections = 0
        self.sent = 0
        self.measured = 0
        self.finished = 0
        """Results without an error that came while measuring."""
        self.sent_again = 0
        self.skipped = 0
        self.feature_bytes = 0
        self.acknowledged = 0
        self.results = 0
        self.doubled = 0
        self.lost = 0
        self.gave_up = 0
        self.frame_errors: Counter[str] = Counter()
        self.stream_errors: Counter[str] = Counter()
        self.ack_s = array("d")
        self.result_s = array("d")


@dataclass(frozen=True, slots=True)
class Report:
    """A load test in numbers. Times are in milliseconds.

    devices, seconds: of the plateau, in which every device was on. frames_per_second: results
    without an error that came in it. bytes_per_second: of streams sent in it. ack_ms, result_ms: of
    the frames that were sent in it, from sending. sent, results: frames over the
    whole test, and how many have a result; ``frame_errors``: those whose result is an error, by
    reason. skipped: frames that were due while the server gave no credit: a camera drops these.
    lost: sent, and without a result when the test ended. doubled: results beyond the first of a
    frame. stream_errors: ends of connections, by reason. gave_up: devices that were refused for
    good. own_lag_ms: by how much the test's own event loop was late: where that is much of
    result_ms, the test is the bottleneck, and not the server.
    """

    devices: int
    seconds: float
    frames_per_second: float
    bytes_per_second: float
    ack_ms: dict[str, float]
    result_ms: dict[str, float]
    sent: int
    acknowledged: int
    results: int
    lost: int
    doubled: int
    skipped: int
    sent_again: int
    connections: int
    gave_up: int
    own_lag_ms: dict[str, float]
    frame_errors: dict[str, int] = field(default_factory=dict)
    stream_errors: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Every frame has one result, and no device was refused."""
        return not (self.lost or self.doubled or self.gave_up)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON document."""
        return asdict(self) | {"whole": self.whole}


def report(tally: Tally, *, devices: int, seconds: float, lags_s: array[float]) -> Report:
    """``tally`` after a plateau of ``seconds``."""
    share = tally.measured / tally.sent if tally.sent else 0.0
    return Report(
        devices=devices,
        seconds=round(seconds, 3),
        frames_per_second=round(tally.finished / seconds, 3),
        bytes_per_second=round(share * tally.feature_bytes / seconds, 1),
        ack_ms=quantiles_ms(tally.ack_s),
        result_ms=quantiles_ms(tally.result_s),
        sent=tally.sent,
        acknowledged=tally.acknowledged,
        results=tally.results,
        lost=tally.lost,
        doubled=tally.doubled,
        skipped=tally.skipped,
        sent_again=tally.sent_again,
        connections=tally.connections,
        gave_up=tally.gave_up,
        own_lag_ms=quantiles_ms(lags_s),
        frame_errors=dict(tally.frame_errors.most_common()),
        stream_errors=dict(tally.stream_errors.most_common()),
    )


def quantiles_ms(seconds: array[float]) -> dict[str, float]:
    """p50, p95, p99 and max of latencies in seconds; empty for none."""
    if not seconds:
        return {}
    values = np.frombuffer(seconds) * 1e3
    found = {f"p{q}": round(float(np.percentile(values, q)), 2) for q in QUANTILES}
    return found | {"max": round(float(values.max()), 2)}
