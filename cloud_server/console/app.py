"""The web application: who is let in, pictures, headers; and running it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from nicegui import ui
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_server.console import login, pages
from cloud_server.console.context import Console, ConsoleSettings
from cloud_server.console.upstream import NOT_LET_IN
from cloud_server.console.view.timeline import Wanted
from shared.errors import FeatherwireError
from shared.rpc.tls_files import WatchedPem

RENEW_S = 5.0
STATIC = Path(__file__).parent / "static"
STATUS_BY_REASON = {"not_found": 404, "bad_state": 409, "busy": 503, "unreachable": 502}


def build_app(console: Console) -> FastAPI:
    """The application. NiceGUI has one set of pages a process, so this is called once."""
    app = FastAPI(title="Featherwire", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SecurityHeaders, https=console.settings.https)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(login.router(console))

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
    ) -> Response:
        user = await console.user(request)
        if user is None:
            return JSONResponse({"reason": "unauthenticated", "message": "log in again"}, 401)
        wanted = Wanted(device, session, sequence, cursor, state)
        try:
            data = await console.pictures.get(user, wanted)
        except FeatherwireError as error:
            code = 403 if error.reason in NOT_LET_IN else STATUS_BY_REASON.get(error.reason, 422)
            return JSONResponse({"reason": error.reason, "message": error.message}, code)
        except ValueError:
            return JSONResponse({"reason": "invalid_message", "message": "no such frame"}, 422)
        return Response(
            data, media_type="image/webp", headers={"Cache-Control": "private, max-age=3600"}
        )

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
            "cannot_listen", f"the console cannot listen on {settings.listen}: {error.strerror}"
        ) from None
    return listening


# NiceGUI writes its start into the page, and Vue compiles templates in the browser: hence the two
# exceptions for scripts. Everything comes from this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


class SecurityHeaders:
    """ASGI middleware: headers that keep a page to itself, in nobody's frame."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._https = https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to every answer."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["X-Frame-Options"] = "DENY"
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()"
                if self._https:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                content = headers.get("content-type", "")
                if content.startswith("text/html") and "cache-control" not in headers:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
