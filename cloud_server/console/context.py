"""What a console's pages and routes share, and its settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from cloud_server.console.gateway import checked_path
from cloud_server.console.pictures import Pictures
from cloud_server.console.sessions import COOKIE, Sessions, Tries, User, load_or_make
from cloud_server.console.upstream import Upstream
from shared.errors import FeatherwireError
from shared.rpc.access import Access, is_loopback
from shared.rpc.tls_files import check_tls_files


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """listen: HOST:PORT, port 0 takes a free one. access: how the server is reached, without a
    token: users bring theirs. data: folder of the cookies' key. certificate, key: PEM files, for
    HTTPS. anywhere: plain HTTP also off this machine's loopback. root_path: under which a proxy
    serves it, such as ``/fw``; empty goes by the proxy's header (``console.gateway``)."""

    listen: str
    server: str
    access: Access
    data: Path
    certificate: Path | None = None
    key: Path | None = None
    anywhere: bool = False
    root_path: str = ""

    @property
    def https(self) -> bool:
        """Whether pages are served over TLS."""
        return self.certificate is not None

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where to bind."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def check(self) -> None:
        """Raise ``FeatherwireError``: ``bad_option``, ``insecure_listen``, ``bad_tls_files``.

        Without HTTPS tokens would cross the network in plain text.
        """
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise FeatherwireError("bad_option", "a console listens on HOST:PORT")
        if checked_path(self.root_path) != self.root_path:
            raise FeatherwireError(
                "bad_option",
                f"{self.root_path!r} is no path of a proxy: it is such as /fw or /cameras/console, "
                "without a slash at its end",
            )
        if (self.certificate is None) != (self.key is None):
            raise FeatherwireError("bad_option", "a certificate and its key belong together")
        if self.https:
            check_tls_files(ca=None, certificate=self.certificate, key=self.key)
        elif not self.anywhere and not is_loopback(self.listen):
            raise FeatherwireError(
                "insecure_listen",
                f"on {self.listen} tokens would cross the network in plain text: give a "
                "certificate (--https-cert, --https-key), listen on 127.0.0.1, or add "
                "--insecure-anywhere",
            )


class Console:
    """One console: what its pages and routes share."""

    def __init__(self, settings: ConsoleSettings) -> None:
        """Raises ``StorageError`` where the cookies' key cannot be kept."""
        self.settings = settings
        self.upstream = Upstream(settings.server, settings.access)
        self.sessions = Sessions(load_or_make(settings.data))
        self.tries = Tries()
        self.pictures = Pictures(self.upstream)

    async def user(self, request: Request) -> User | None:
        """Who asks; None for somebody who has to log in."""
        if self.upstream.takes_tokens:
            for cookie in _cookies(request):
                user = self.sessions.open(cookie)
                if user is not None:
                    return user
        return await self.upstream.anybody()

    @staticmethod
    def to_login(request: Request) -> Response:
        """Where somebody is sent who has to log in."""
        target = request.url.path.removeprefix(root_of(request)) or "/"
        target += f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{root_of(request)}/login?next={quote(target)}", 303)


def root_of(request: Request) -> str:
    """The path under which this request's browser sees the console; empty for none. It belongs in
    front of every link and redirect."""
    return str(request.scope.get("root_path", ""))


def _cookies(request: Request) -> Iterator[str]:
    """All cookies of our name: a browser also sends those of consoles on paths above this one."""
    for part in ";".join(request.headers.getlist("cookie")).split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            yield value
