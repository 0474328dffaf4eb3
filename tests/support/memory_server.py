"""A server's ingest without sockets, and devices that speak to it in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloud_server.database import Database
from cloud_server.engine import (
    Engine,
    EngineFrame,
    EngineOutcome,
    FairEngine,
    LocalEngine,
    TaskStatus,
)
from cloud_server.fleet.fleet import Fleet
from cloud_server.ingest.bundles import ServedBundles
from cloud_server.ingest.servicer import IngestServicer
from cloud_server.ingest.stream import Call
from cloud_server.results.log import ResultLog
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.results import AnalysisResult
from shared.wire.device_events import Event
from shared.wire.device_protocol import DeviceProtocol
from shared.wire.requests import Hello
from tests.support.raw_client import Client

TASK = "looking"
"""The one task of the engine here."""


class ScriptedEngine:
    """An engine that awaits ``before`` and then answers that it found nothing."""

    def __init__(self, before: Callable[[EngineFrame], Awaitable[None]] | None = None) -> None:
        self.tasks = {TASK: TaskStatus(TASK)}
        self.alive = True
        self.width = 1
        self.queues: dict[str, int] = {}
        self.seen: list[EngineFrame] = []
        self._before = before

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        self.seen.append(frame)
        if self._before is not None:
            await self._before(frame)
        first = frame.bitstreams[0]
        return EngineOutcome(
            analysis=AnalysisResult(
                width=first.width,
                height=first.height,
                state=first.state,
                payload_bytes=frame.payload_bytes,
                bits_per_pixel=8 * frame.payload_bytes / frame.pixels,
                tasks={},
                milliseconds={},
            )
        )

    async def close(self) -> bool:
        return True


@asynccontextmanager
async def memory_server(
    folder: Path, *bundles: Bundle, engine: Engine | None = None, **options: Any
) -> AsyncIterator[IngestServicer]:
    """The calls of a server with a log in ``folder``; options: of ``IngestServicer``."""
    database = await asyncio.to_thread(Database, f"sqlite:///{folder}/log.sqlite3")
    fleet = Fleet(database)
    fair = FairEngine(engine or ScriptedEngine())
    ingest = IngestServicer(
        fair,
        log=ResultLog(database, window=2**16),
        bundles=ServedBundles(bundles),
        fleet=fleet,
        server_version="test",
        max_message_bytes=2**25,
        share=fair.share,
        **options,
    )
    await ingest.recover()
    try:
        yield ingest
    finally:
        await ingest.close()
        await fleet.close()
        await asyncio.to_thread(database.close)


class MemoryDevice:
    """A device's protocol joined to a server's: ``connect`` runs one stream until it ends."""

    def __init__(self, ingest: IngestServicer, hello: Hello, *, remembers: bool = False) -> None:
        self._ingest = ingest
        self.protocol: DeviceProtocol[None] = DeviceProtocol(hello, remembers=remembers)
        self.events: list[Event[None]] = []
        self._changed = asyncio.Event()
        self._ended = False

    async def connect(self, call: Call | None = None) -> None:
        """One stream; raises the error that it ends with. Cancelling it loses the stream."""
        self._ended = False
        self.protocol.connect(time.monotonic())
        exchange = self._ingest.exchange(self._requests(), call)
        try:
            async for response in exchange:
                self.events += self.protocol.receive(response, time.monotonic())
                self._changed.set()
        finally:
            self._ended = True
            self._changed.set()
            await exchange.aclose()
            self.protocol.disconnected()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait for something that an event brings."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.001)

    def found(self, kind: type[Any]) -> list[Any]:
        """The events of a kind, in their order."""
        return [event for event in self.events if isinstance(event, kind)]

    def wake(self) -> None:
        """Let what was given to the protocol go out."""
        self._changed.set()

    async def _requests(self) -> AsyncIterator[ingest_pb2.ConnectRequest]:
        while not self._ended:
            while (data := self.protocol.next_message()) is not None:
                yield ingest_pb2.ConnectRequest.FromString(data)
            if self.protocol.closing:
                return
            await self._changed.wait()
            self._changed.clear()


class MemoryServer:
    """A ``memory_server`` on an event loop in a thread of its own, for tests that wait in theirs.

    Its engine is a real one. ``client`` gives clients, as ``RawClient`` gives them over a socket.
    """

    def __init__(
        self,
        folder: Path,
        *bundles: Bundle,
        tasks: Mapping[str, Callable[[], Any]] | None = None,
        score_threshold: float = 1.0,
        **options: Any,
    ) -> None:
        """tasks, score_threshold: as for ``LocalEngine.open``. options: of ``IngestServicer``."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._clients: list[MemoryClient] = []
        self._engine = self._run(
            LocalEngine.open(*bundles, tasks=tasks, score_threshold=score_threshold)
        )
        self._context = memory_server(folder, *bundles, engine=self._engine, **options)
        self.ingest = self._run(self._context.__aenter__())

    def client(self) -> MemoryClient:
        """A stream that waits for its Hello."""
        client = MemoryClient(self.ingest, self._loop)
        self._clients.append(client)
        return client

    def drain(self, deadline_s: float) -> None:
        """Let the streams there are come to their end."""
        self._loop.call_soon_threadsafe(self.ingest.drain, deadline_s)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._run(self._context.__aexit__(None, None, None))
        self._run(self._engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


class MemoryClient(Client):
    """A client without a socket."""

    def __init__(self, ingest: IngestServicer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._requests: asyncio.Queue[ingest_pb2.ConnectRequest | None] = asyncio.Queue()
        self._serving = asyncio.run_coroutine_threadsafe(self._serve(ingest), loop)

    def put(self, request: ingest_pb2.ConnectRequest) -> None:
        # Serialised, as it would travel.
        copy = ingest_pb2.ConnectRequest.FromString(request.SerializeToString())
        self._loop.call_soon_threadsafe(self._requests.put_nowait, copy)

    def half_close(self) -> None:
        self._loop.call_soon_threadsafe(self._requests.put_nowait, None)

    def close(self) -> None:
        self._serving.cancel()
        self.ended.wait(10)

    async def _serve(self, ingest: IngestServicer) -> None:
        exchange = ingest.exchange(self._said())
        try:
            async for response in exchange:
                self.received.append(response)
        except FeatherwireError as error:
            self.error = error
        finally:
            await exchange.aclose()
            self.ended.set()

    async def _said(self) -> AsyncIterator[ingest_pb2.ConnectRequest]:
        while (request := await self._requests.get()) is not None:
            yield request
