"""What became of the frames of all simulated devices."""

from __future__ import annotations

import math
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

    @property
    def hint(self) -> str | None:
        """What the numbers say of the server, where they say more than that it kept up."""
        late_ms = self.own_lag_ms.get("p95", 0.0)
        if late_ms > 0.5 * self.result_ms.get("p50", math.inf):
            return (
                f"this test was late by {late_ms:g} ms itself (95th percentile): times are rather "
                "its own than the server's; use fewer devices, or another machine"
            )
        if self.skipped:
            due = self.frames_per_second + self.skipped / self.seconds
            return (
                f"the server did {self.frames_per_second:g} of {due:.3g} frames a second that were "
                "due, and slowed the devices down; more workers, a GPU or another server take more"
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON document."""
        return asdict(self) | {"whole": self.whole, "hint": self.hint}


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
