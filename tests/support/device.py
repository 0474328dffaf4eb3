"""A device that sends until all is acknowledged, however often its server dies."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from shared.bitstream import Bitstream
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import PictureRequest
from shared.wire.device_events import Acknowledged, Answered, Event, Failed, Welcomed
from shared.wire.device_protocol import DeviceProtocol
from shared.wire.requests import Frame, Hello, frame_message
from tests.support.raw_client import RawClient

WELCOME_WITHIN_S = 20.0


class Device(threading.Thread):
    """One session. What it must not lose is in ``acked``; what it got is in ``results``."""

    def __init__(self, name: str, address: Callable[[], str], *bitstreams: Bitstream) -> None:
        """bitstreams: sent in turn, over and over; those that are predicted refer to the one before
        them, and the first stands alone."""
        super().__init__(daemon=True)
        self.device = name
        self._address = address
        self._bitstreams = bitstreams
        self._rng = random.Random(name)
        predicts = any(one.reference is not None for one in bitstreams)
        hello = Hello(name, "crash", can_switch_bundle=True, predicts=predicts)
        self._protocol = DeviceProtocol[None](hello, remembers=True)
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
        missing = f"{self.sent} sent, {len(self.acked)} acked, {len(self.results)} results"
        assert not self.is_alive(), f"{missing}, complaints {self.complaints}"

    def run(self) -> None:
        while not self._done() and not self._gave_up.is_set():
            client = RawClient(self._address())
            try:
                self._serve(client)
            finally:
                client.close()
                self._protocol.disconnected()
            time.sleep(0.02)

    def sent_as(self, sequence: int) -> Bitstream:
        """What goes out under this number."""
        return self._bitstreams[(sequence - 1) % len(self._bitstreams)]

    def _done(self) -> bool:
        all_acked = self.acked >= set(range(1, self.sent + 1))
        return self._stop_new.is_set() and all_acked and len(self.results) >= self.sent

    def _serve(self, client: RawClient) -> None:
        """One stream, until it ends."""
        last = max(self.results, default=0)
        if set(self.results) != set(range(1, last + 1)):
            self.complaints.append(f"results up to {last} with a gap")
        protocol, began = self._protocol, time.monotonic()
        protocol.connect(began, last_result_seen=last)
        read = 0
        while not self._done() and not self._gave_up.is_set():
            ended = client.ended.is_set()
            messages = client.received[read:]
            read += len(messages)
            for message in messages:
                for event in protocol.receive(message, time.monotonic()):
                    self._note(event)
            if ended or (protocol.welcome is None and time.monotonic() - began > WELCOME_WITHIN_S):
                return
            while protocol.can_send and (sequence := self._next()) is not None:
                picture = PictureRequest() if sequence % 3 == 0 else None
                frame = frame_message(Frame(sequence, (self.sent_as(sequence),), picture=picture))
                protocol.send_frame(frame, None, time.monotonic())
            while (data := protocol.next_message()) is not None:
                client.put(ingest_pb2.ConnectRequest.FromString(data))
            time.sleep(0.002)

    def _next(self) -> int | None:
        """What to send: now and then what the server has already, else a new frame."""
        if self.acked and self._rng.random() < 0.05:
            return self._rng.choice(sorted(self.acked)[-50:])
        if self._stop_new.is_set():
            return None
        self.sent += 1
        return self.sent

    def _note(self, event: Event[None]) -> None:
        match event:
            case Welcomed(welcome=welcome):
                self.connections += 1
                if welcome.resume_after_sequence > self.sent:
                    self.complaints.append("resume_after is ahead of what was sent")
            case Acknowledged(key=(sequence, _, _), duplicate=duplicate):
                self.duplicates += duplicate
                self.acked.add(sequence)
            case Answered(result=result):
                self._take_result(result)
            case Failed(error=error):
                self.complaints.append(str(error))
            case _:
                pass

    def _take_result(self, result: ingest_pb2.Result) -> None:
        if not result.outcome.HasField("analysis") or result.result_id == 0:
            self.complaints.append(f"no analysis: {result}"[:500])
            self.results.setdefault(result.result_id, result)
            return
        known = self.results.setdefault(result.result_id, result)
        if known.sequence != result.sequence:
            self.complaints.append(f"result {result.result_id} of two frames")
