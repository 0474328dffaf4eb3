"""A device that sends until all is acknowledged, however often its server dies."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from shared.bitstream import Bitstream
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import PictureRequest
from tests.support.raw_client import RawClient


class Device(threading.Thread):
    """One session. What it must not lose is in ``acked``; what it got is in ``results``."""

    def __init__(self, name: str, address: Callable[[], str], bitstream: Bitstream) -> None:
        super().__init__(daemon=True)
        self.device = name
        self._address = address
        self._bitstream = bitstream
        self._rng = random.Random(name)
        self._unacked: set[int] = set()
        self._stop_new = threading.Event()
        self._gave_up = threading.Event()
        self.sent = 0
        self.acked: set[int] = set()
        self.results: dict[int, ingest_pb2.Result] = {}
        """By result_id."""
        self.complaints: list[str] = []
        self.duplicates = 0
        self.connections = 0

    def finish(self, timeout_s: float) -> None:
        """Send nothing new, and wait until all is acknowledged and answered."""
        self._stop_new.set()
        self.join(timeout_s)
        self._gave_up.set()
        assert not self.is_alive(), f"{len(self._unacked)} unacknowledged, {self._missing()}"

    def run(self) -> None:
        while not self._done() and not self._gave_up.is_set():
            client = RawClient(self._address())
            try:
                self._serve(client)
            except AssertionError:
                pass  # the server died before Welcome, or while we spoke
            finally:
                client.close()
            time.sleep(0.02)

    def _done(self) -> bool:
        return self._stop_new.is_set() and not self._unacked and len(self.results) >= self.sent

    def _missing(self) -> str:
        return f"{self.sent} sent, {len(self.results)} results, complaints {self.complaints}"

    def _serve(self, client: RawClient) -> None:
        last = max(self.results, default=0)
        if set(self.results) != set(range(1, last + 1)):
            self.complaints.append(f"results up to {last} with a gap")
        welcome = client.hello(device=self.device, session="crash", last_result_seen=last)
        self.connections += 1
        for sequence in [n for n in self._unacked if n <= welcome.resume_after_sequence]:
            self._unacked.remove(sequence)
            self.acked.add(sequence)
        if any(n not in self.acked for n in range(1, welcome.resume_after_sequence + 1)):
            self.complaints.append("resume_after is ahead of what was sent")
        credits = welcome.credits
        again = sorted(self._unacked)
        read = 0
        while not client.ended.is_set() and not self._done() and not self._gave_up.is_set():
            messages = client.received[read:]
            read += len(messages)
            for message in messages:
                credits += self._take(message)
            while credits > 0:
                sequence = self._next(again)
                if sequence is None:
                    break
                credits -= 1
                picture = PictureRequest() if sequence % 3 == 0 else None
                client.frame(sequence, self._bitstream, picture=picture)
            time.sleep(0.002)

    def _next(self, again: list[int]) -> int | None:
        """What to send: what may be lost, now and then what is not, else a new frame."""
        if again:
            return again.pop(0)
        if self.acked and self._rng.random() < 0.05:
            return self._rng.choice(sorted(self.acked)[-50:])
        if self._stop_new.is_set():
            return None
        self.sent += 1
        self._unacked.add(self.sent)
        return self.sent

    def _take(self, message: ingest_pb2.ConnectResponse) -> int:
        """Note a message; returns the credits that it brings."""
        match message.WhichOneof("message"):
            case "ack":
                self.duplicates += message.ack.duplicate
                self._unacked.discard(message.ack.sequence)
                self.acked.add(message.ack.sequence)
            case "result":
                self._take_result(message.result)
            case "credit":
                return message.credit.credits
            case "error":
                self.complaints.append(str(message.error))
        return 0

    def _take_result(self, result: ingest_pb2.Result) -> None:
        if not result.outcome.HasField("analysis") or result.result_id == 0:
            self.complaints.append(f"no analysis: {result}"[:500])
            self.results.setdefault(result.result_id, result)
            return
        known = self.results.setdefault(result.result_id, result)
        if known.sequence != result.sequence:
            self.complaints.append(f"result {result.result_id} of two frames")
