"""The web application: its routes, pictures among them; and running it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from nicegui import ui

from cloud_server.console import downloads, login, pages, playback
from cloud_server.console.context import Console, ConsoleSettings
from cloud_server.console.gateway import Gateway
from cloud_server.console.view.timeline import Wanted
from shared.errors import FeatherwireError
from shared.listening import why_not
from shared.rpc.tls_files import WatchedPem

RENEW_S = 5.0
STATIC = Path(__file__).parent / "static"


def build_app(console: Console) -> FastAPI:
    """The application. NiceGUI has one set of pages a process, so this is called once."""
    app = FastAPI(title="Featherwire", docs_url=None, redoc_url=None, openapi_url=None)
    settings = console.settings
    app.add_middleware(
        Gateway, https=settings.https, anywhere=settings.anywhere, root_path=settings.root_path
    )
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(login.router(console))
    app.include_router(downloads.router(console))
    app.include_router(playback.router(console))

    @app.get("/healthz")
    async def health() -> dict[str, int]:
        """That the console lives, and how many streams it has open for pages."""
        return {"streams": console.upstream.streams}

    @app.get("/picture/{device}/{session}/{sequence}/{cursor}")
    async def picture(
        request: Request,
        device: str,
        session: str,
        sequence: int,
        cursor: int,
        state: int | None = None,
        decoder: str = "",
        download: bool = False,
        optional: bool = False,
    ) -> Response:
        """optional: a frame of which there can be no picture is answered with nothing."""
        user = await console.user(request)
        if user is None:
            return JSONResponse({"reason": "unauthenticated", "message": "log in again"}, 401)
        wanted = Wanted(device, session, sequence, cursor, state, decoder)
        try:
            data = await while_there(request, console.pictures.get(user, wanted))
        except FeatherwireError as error:
            if optional and error.reason == "no_picture":
                return Response(status_code=204)
            return downloads.refusal(error)
        except ValueError:
            return JSONResponse({"reason": "invalid_message", "message": "no such frame"}, 422)
        if data is None:
            return Response(status_code=499)
        headers = {"Cache-Control": "private, max-age=3600"}
        if download:
            at = "" if state is None else f"-state-{state}"
            at += f"-{decoder}" if decoder else ""
            file = f"{device}-{session}-{sequence}{at}.webp".replace(":", "-")
            headers["Content-Disposition"] = f'attachment; filename="{file}"'
        return Response(data, media_type="image/webp", headers=headers)

    @app.get("/thumbnail/{device}")
    async def thumbnail(request: Request, device: str) -> Response:
        user = await console.user(request)
        if user is None:
            return JSONResponse({"reason": "unauthenticated", "message": "log in again"}, 401)
        try:
            data = await console.pictures.thumbnail(user, device[:128])
        except FeatherwireError as error:
            return downloads.refusal(error)
        headers = {"Cache-Control": "private, max-age=30"}
        return Response(data, media_type="image/webp", headers=headers)

    pages.register(console)
    ui.run_with(
        app,
        title="Featherwire",
        favicon=STATIC / "favicon.svg",
        language="en-GB",
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=5.0,
    )
    return app


async def while_there(request: Request, work: Coroutine[Any, Any, bytes]) -> bytes | None:
    """What comes of the work, as long as the browser waits for it; None once it does not.

    A request without a body is what ``request`` must be.
    """
    doing = asyncio.create_task(work)

    async def until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.create_task(until_gone())
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        doing.cancel()
        gone.cancel()


async def run(settings: ConsoleSettings, *, until_stdin_ends: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, and print a JSON line when ready.

    until_stdin_ends: stop also when whoever holds the other end of stdin has gone. Raises
    ``FeatherwireError``: what ``ConsoleSettings.check`` does, and ``cannot_listen``.
    """
    settings.check()
    console = Console(settings)
    app = build_app(console)
    listening = _bind(settings)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
        )
    )
    host, port = listening.getsockname()[:2]
    scheme = "https" if settings.https else "http"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    structlog.get_logger().info("console_listening", url=url, server=settings.server)

    async def announce() -> None:
        while not server.started:
            await asyncio.sleep(0.05)
        sys.stdout.write(json.dumps({"console": url, "server": settings.server}) + "\n")
        sys.stdout.flush()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    tasks = [asyncio.create_task(announce()), asyncio.create_task(_renew(server.config, console))]
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)  # it looks by itself
    if until_stdin_ends:
        tasks.append(asyncio.create_task(_stop_with_stdin(server)))
    try:
        await server.serve(sockets=[listening])
    finally:
        for task in tasks:
            task.cancel()
        await console.upstream.close()


async def _renew(config: uvicorn.Config, console: Console) -> None:
    """Take certificates anew when their files are replaced: for new connections of browsers, and
    for those to the server."""
    settings, upstream = console.settings, console.upstream
    own = WatchedPem(ca=None, certificate=settings.certificate, key=settings.key)
    while True:
        await asyncio.sleep(RENEW_S)
        if config.ssl is not None and await asyncio.to_thread(own.refresh):
            assert settings.certificate is not None
            config.ssl.load_cert_chain(settings.certificate, settings.key)
            structlog.get_logger().info("certificate_replaced")
        await upstream.renew()


class _Server(uvicorn.Server):
    """Stops in good order on a signal: uvicorn itself would raise it once more at the end."""

    def stop(self) -> None:
        """Stop, at once when asked a second time."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None are captured here."""
        yield


async def _stop_with_stdin(server: uvicorn.Server) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    server.should_exit = True


def _bind(settings: ConsoleSettings) -> socket.socket:
    host, port = settings.host_and_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise FeatherwireError(
            "cannot_listen",
            f"the console cannot listen on {settings.listen}: {why_not(settings.listen, error)}",
        ) from None
    return listening
