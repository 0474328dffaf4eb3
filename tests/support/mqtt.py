"""A listener at a broker, and a way to it that forgets connections or speaks MQTT 3.1.1 alone."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

CONNECT = 0x10


def until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether the condition has come true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


class Listener:
    """A client of its own that notes every message as (topic, payload, retained before)."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, bytes, bool]] = []
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = lambda _, __, m: self.messages.append(
            (m.topic, m.payload, m.retain)
        )
        self._client.on_connect = lambda *_: self._client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(20)

    def at(self, topic: str) -> list[bytes]:
        """The payloads at a topic."""
        return [payload for name, payload, _ in list(self.messages) if name == topic]

    def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        """Publish a message; returns when the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


def retained(port: int, topic: str, enough: Callable[[list[bytes]], bool]) -> list[bytes]:
    """What a client that comes now finds at a topic; waits until that is enough, for a while."""
    listener = Listener(port)
    until(lambda: enough(listener.at(topic)), 5)
    listener.close()
    return listener.at(topic)


class Way:
    """From a port of its own to a broker's. ``only_3``: who speaks MQTT 5 is shut out, as by an old
    broker. ``forget`` is a NAT that forgets: the clients' connections end, the broker's stay.
    ``hates``: a connection over which this goes is ended, as some brokers do, and not answered;
    ``hates_times``: so often, and no more. ``swallows``: what has this in it does not arrive."""

    def __init__(self, port: int, *, only_3: bool = False, hates: bytes | None = None) -> None:
        self.only_3 = only_3
        self.hates = hates
        self.hates_times = sys.maxsize
        self.swallows: bytes | None = None
        self.connects: list[bytes] = []
        """The CONNECT packets that came, each with the moment's first bytes only."""
        self._target = port
        self._clients: list[socket.socket] = []
        self._servers: list[socket.socket] = []
        self._kept: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        """Reset the clients' connections; the broker's stay open, and silent."""
        self._kept += self._servers
        clients, self._clients, self._servers = self._clients, [], []
        for one in clients:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def kept_end(self) -> None:
        """Let the broker notice now that the forgotten ones are gone."""
        for one in self._kept:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._kept = []

    def close(self) -> None:
        """End all."""
        self._listener.close()
        self.forget()
        self.kept_end()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            first = client.recv(4096)
            self.connects.append(first)
            if not first or (self.only_3 and b"MQTT\x05" in first[:16]):
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            server.sendall(first)
            self._clients.append(client)
            self._servers.append(server)
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.swallows is not None and self.swallows in data:
                    continue
                if self.hates is not None and self.hates in data and self.hates_times > 0:
                    self.hates_times -= 1
                    break
                sink.sendall(data)
        if source not in self._kept and sink not in self._kept:
            for one in (source, sink):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


def client_ids(way: Way) -> list[str]:
    """The client ids of the CONNECT packets that came."""
    return [_client_id(packet) for packet in list(way.connects) if packet]


def _client_id(packet: bytes) -> str:
    at = packet.index(b"MQTT") + 4
    version5 = packet[at] == 5
    at += 4  # level, flags, keep alive
    at += 1 + packet[at] if version5 else 0
    size = int.from_bytes(packet[at : at + 2], "big")
    return packet[at + 2 : at + 2 + size].decode()


def large(fill: int) -> dict[str, Any]:
    """Changes to a report that make it larger by so many detections."""
    from shared.results import AnalysisResult, Box, Detection, TaskResult
    from tests.support.reports import MODEL

    box = Box(x_min=1, y_min=2, x_max=11, y_max=22)
    one = Detection(box=box, class_id=1, class_name="person", score=0.9)
    task = TaskResult(task="detection", model=MODEL, detections=[one] * fill)
    analysis = AnalysisResult(
        width=64, height=48, state=2, payload_bytes=384, bits_per_pixel=1.0,
        tasks={"detection": task},
    )  # fmt: skip
    return {"analysis": analysis}
