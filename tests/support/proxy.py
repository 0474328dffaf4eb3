"""A TCP proxy that delays, throttles, stalls and cuts what goes through it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType

CHUNK = 4096
SILENT_S = 0.3
"""Before a connection is cut that has passed so many bytes."""


class Proxy:
    """Between clients and ``target`` (HOST:PORT). The attributes may be changed at any time;
    connections that are open keep the target that they have.

    delay_s: of every chunk, both ways. upstream: bytes a second towards the target, None without
    limit; downstream: likewise. stalled: nothing passes. refusing: new connections are closed at
    once.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.delay_s = 0.0
        self.upstream: float | None = None
        self.downstream: float | None = None
        self.stalled = False
        self.refusing = False
        self.sent: list[tuple[float, int]] = []
        """When how many bytes went upstream, by ``time.monotonic``."""
        self.received = 0
        """Bytes that went downstream."""
        self.cut_at: int | None = None
        """At so many of them nothing more comes, and soon after every connection is cut."""
        self.connections = 0
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = False
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection, without a word to either side beforehand."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def sent_bytes(self) -> int:
        """Bytes that went upstream so far."""
        return sum(size for _, size in list(self.sent))

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            # Small buffers: what is throttled waits at the sender, as on a slow line.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            try:
                host, port = self.target.rsplit(":", 1)
                server = socket.create_connection((host, int(port)), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
                self.connections += 1
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, up), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if self.delay_s:
                    time.sleep(self.delay_s)
                while self.stalled:
                    time.sleep(0.01)
                if up:
                    if self.upstream is not None:
                        time.sleep(len(data) / self.upstream)
                    self.sent.append((time.monotonic(), len(data)))
                elif self.downstream is not None:
                    time.sleep(len(data) / self.downstream)
                sink.sendall(data)
                if not up:
                    self.received += len(data)
                    if self.cut_at is not None and self.received >= self.cut_at:
                        self.cut_at = None
                        # Who is cut off loses what gRPC has received and nobody has taken yet.
                        time.sleep(SILENT_S)
                        self.cut()
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
