"""The bare echo: bytes in, the same bytes out, on one grpc.aio stream, with our channel options.

`python -m benchmarks.transport.echo` serves it, prints its address, and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import grpc

from shared.rpc.channel import open_async_channel, server_options

METHOD = "/featherwire.bench.Echo/Stream"


async def _echo(requests: AsyncIterator[bytes], context: Any) -> None:
    async for request in requests:
        await context.write(request)


class _Handler(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(_echo) if details.method == METHOD else None


async def serve() -> None:
    """Echo until stdin ends."""
    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers((_Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


@contextmanager
def echo_server() -> Iterator[tuple[str, int]]:
    """A running echo server, a process of its own: its HOST:PORT and its id."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.transport.echo"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid


class EchoClient:
    """One stream of echoes, with at most ``window`` under way."""

    def __init__(self, address: str, window: int) -> None:
        self._channel = open_async_channel(address)
        self._call: Any = self._channel.stream_stream(METHOD)()
        self._window = window

    async def __aenter__(self) -> EchoClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call.cancel()
        await self._channel.close()

    async def run(self, payload: bytes, count: int) -> None:
        """Send ``payload`` so many times, and have as many back."""
        room = asyncio.Semaphore(self._window)

        async def read() -> None:
            for _ in range(count):
                answer = await self._call.read()
                assert len(answer) == len(payload)
                room.release()

        reading = asyncio.create_task(read())
        for _ in range(count):
            await room.acquire()
            await self._call.write(payload)
        await reading


if __name__ == "__main__":
    asyncio.run(serve())
