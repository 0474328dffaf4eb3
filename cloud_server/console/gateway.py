"""What stands between a browser's request and the pages: the path of a proxy, HEAD, headers.

A proxy may serve the console under a path of its own host. Which one is the setting ``root_path``,
or else what the proxy says in ``X-Forwarded-Prefix``. Behind this module the path is where ASGI has
it, in ``root_path`` and at the beginning of ``path``, whether the proxy has cut it off or not; the
header is gone, so that nobody reads it a second time.

The header is believed from a peer on this machine, and from anybody where plain HTTP is served to
other machines, which is only done for a proxy (``--insecure-anywhere``). Where browsers come
directly, over HTTPS, it is not: there is no proxy that would overwrite what a client has sent. What
is believed must look like a path: no other host, no mark-up, no step upwards can be in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEAD = "featherwire.head"
"""In the scope of a request whose body nobody will see."""

PREFIX_HEADER = "x-forwarded-prefix"
SCHEME_HEADER = "x-forwarded-proto"
OUR_PATHS = frozenset(
    {
        *("commands", "device", "favicon.ico", "healthz", "login", "logout", "masks", "picture"),
        *("play", "playback", "rates", "results", "results.csv", "results.coco.json", "static"),
        "thumbnail",
        *("_nicegui", "_nicegui_ws"),
    }
)
"""First parts of the console's own paths: a request for one of them was cut already."""

_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~@:+-]|%[0-9A-Fa-f]{2})+)+")
MAX_PREFIX = 256


def checked_path(text: str) -> str | None:
    """A path such as ``/fw`` without its last slash, empty for the root; None for what is none."""
    path = text.strip().rstrip("/")
    if not path:
        return ""
    if len(path) > MAX_PREFIX or _PATH.fullmatch(path) is None:
        return None
    plain = unquote(path)
    steps = plain.split("/")[1:]
    if any(step in {"", ".", ".."} for step in steps) or not plain.isprintable() or "\\" in plain:
        return None
    return path


class Gateway:
    """ASGI middleware: the outermost, in front of pages, pictures and web sockets."""

    def __init__(self, app: ASGIApp, *, https: bool, anywhere: bool, root_path: str = "") -> None:
        """root_path: as ``checked_path`` gives it; empty goes by the proxy's header.

        https: this process serves it. anywhere: plain HTTP is served to other machines.
        """
        self._app = app
        self._https = https
        self._believes_all = anywhere and not https
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as it is meant, and its answer as it must look outside."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        believed = self._believes_all or _on_this_machine(scope)
        prefix = self._root_path
        if not prefix and believed:
            prefix = _said(headers.getlist(PREFIX_HEADER))
        https = self._https or (believed and headers.get(SCHEME_HEADER) == "https")
        inner = dict(scope)
        inner["headers"] = [
            (name, value)
            for name, value in scope["headers"]
            if name.lower() != PREFIX_HEADER.encode()
        ]
        inner["root_path"] = prefix
        inner["path"] = prefix + _within(scope["path"], unquote(prefix))
        inner["raw_path"] = inner["path"].encode()
        if https:
            inner["scheme"] = {"http": "https", "ws": "wss"}.get(scope["scheme"], scope["scheme"])
        if scope["type"] == "http":
            head = scope["method"] == "HEAD"
            if head:
                inner |= {"method": "GET", HEAD: True}
            host = headers.get("host", "")
            send = _answering(send, head=head, https=self._https, host=host)
        await self._app(inner, receive, send)


def _said(values: Sequence[str]) -> str:
    """By proxies one behind the other: each has added its own path behind those before."""
    parts = [checked_path(one) for one in ",".join(values).split(",")]
    return checked_path("".join(part or "" for part in parts)) or "" if None not in parts else ""


def _within(path: str, prefix: str) -> str:
    """The console's own path, of one that may begin with the prefix still."""
    if prefix and prefix.split("/")[1] not in OUR_PATHS:
        if path == prefix:
            return "/"
        if path.startswith(prefix + "/"):
            return path[len(prefix) :]
    return path


def _on_this_machine(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        return client is not None and ip_address(client[0]).is_loopback
    except ValueError:
        return False


# NiceGUI writes its start into the page, and Vue compiles templates in the browser: hence the two
# exceptions for scripts. Everything comes from this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def _answering(send: Send, *, head: bool, https: bool, host: str) -> Send:
    """Adds headers that keep a page to itself, in nobody's frame; and answers HEAD without a
    body."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = POLICY
            headers["X-Frame-Options"] = "DENY"
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()"
            if https:
                headers["Strict-Transport-Security"] = "max-age=31536000"
            content = headers.get("content-type", "")
            if content.startswith("text/html") and "cache-control" not in headers:
                headers["Cache-Control"] = "no-store"
            # A redirect is a path: which scheme and host a proxy has outside is not known here.
            here = re.match(rf"https?://{re.escape(host)}(?=/)", headers.get("location", ""))
            if here is not None:
                headers["Location"] = headers["location"][here.end() :]
        elif head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return answer
