"""What a camera's web server sends: opened with redirects and authentication, read as it comes."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlsplit

from edge_client.sources.web.auth import Authorization, is_stale
from shared.addresses import Address, redacted, shown
from shared.errors import SourceError
from shared.rpc.proxies import is_direct

READ_BYTES = 2**16
UNPACKED_BYTES = 2**20
_ROUNDS = 4
_SAFE = "%/:=&?~#+!$,;'@()*[]"
_UNAUTHORIZED, _FORBIDDEN = 401, 403


class HttpCamera:
    """Requests to one address. What the server asked of a user is kept from one to the next."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        """timeout_s: for an answer to begin, and then without a byte."""
        self.name = address.shown
        self._address = address
        self._timeout_s = timeout_s
        self._authorization = (
            None if address.user is None else Authorization(address.user, address.password or "")
        )

    def open(self) -> http.client.HTTPResponse:
        """The answer of 200 to 299. Raises SourceError: forbidden, source_away."""
        url = quote(self._address.bare, safe=_SAFE)
        told = set[str]()
        for _ in range(_ROUNDS):
            try:
                return self._ask(url)
            except urllib.error.HTTPError as error:
                with error:
                    challenges = error.headers.get_all("WWW-Authenticate") or []
                    if error.code != _UNAUTHORIZED:
                        raise self._refused(error.code) from None
                    # A nonce from before may be too old; one of just now is not, unless it says so.
                    asked = error.url or url
                    if asked in told and not is_stale(challenges):
                        raise self._unauthorized(wrong=True) from None
                    url = self._answering(asked, challenges)
                    told.add(url)
        raise self._unauthorized(wrong=True)

    def away(self, error: Exception | str, proxy: str = "") -> SourceError:
        """The error for a server that cannot be reached or read, in words. proxy: that stands
        between us, without its password."""
        if isinstance(error, http.client.IncompleteRead):
            why = "the connection ended in the middle"
        elif isinstance(error, http.client.InvalidURL | UnicodeError):
            why = "it names an address that is none"
        else:
            why = str(getattr(error, "reason", None) or error) or type(error).__name__
        why = redacted(why, *self._address.secrets)
        if proxy:
            why += f" (through the proxy {proxy}; no_proxy names hosts that are reached without)"
        return SourceError("source_away", f"{self.name}: {why}")

    # -- parts -----------------------------------------------------------------------------------

    def _ask(self, url: str) -> http.client.HTTPResponse:
        request = urllib.request.Request(url, headers={"User-Agent": "featherwire"})
        parts = urlsplit(url)
        if self._authorization is not None:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            header = self._authorization.header("GET", target)
            if header is not None:  # and not to where we may be sent on
                request.add_unredirected_header("Authorization", header)
        with _deadline(self._timeout_s) as watch:
            try:
                answer: http.client.HTTPResponse = _opener(watch).open(
                    request, timeout=self._timeout_s
                )
            except urllib.error.HTTPError:
                raise
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self.away(watch.over or error, watch.proxy) from None
            if watch.over:  # where its headers ended with the connection
                answer.close()
                raise self.away(watch.over, watch.proxy)
        return answer

    def _answering(self, url: str, challenges: list[str]) -> str:
        """The URL to ask again, with what was asked for. Raises SourceError("forbidden")."""
        if self._authorization is None:
            raise self._unauthorized(wrong=False)
        parts, ours = urlsplit(url), self._address
        if parts.hostname != ours.host.lower() or (ours.scheme, parts.scheme) == ("https", "http"):
            raise SourceError(
                "forbidden",
                f"{self.name} sends us on to {parts.scheme}://{parts.hostname}, which wants a user "
                "and password; they are for the address that was given alone",
            )
        if not self._authorization.ask(challenges):
            kinds = ", ".join(sorted({one.split(" ")[0] for one in challenges}))
            raise SourceError("forbidden", f"{self.name} wants {kinds}; known are Digest and Basic")
        return url

    def _unauthorized(self, *, wrong: bool) -> SourceError:
        if self._authorization is not None:
            self._authorization.forget()
        why = (
            "it does not take this user and password"
            if wrong
            else "it wants a user and password, as http://USER:PASSWORD@HOST/..."
        )
        return SourceError("forbidden", f"{self.name} answers {_UNAUTHORIZED}: {why}")

    def _refused(self, code: int) -> SourceError:
        reason = "forbidden" if code == _FORBIDDEN else "source_away"
        why = "; it sends us round in circles" if 300 <= code < 400 else ""
        return SourceError(reason, f"{self.name} answers {code}{why}")


def unpacked(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The bytes of an answer as they come, some at a time, unpacked if it sends gzip unasked.

    Raises OSError, http.client.HTTPException.
    """
    packed = (answer.headers.get("Content-Encoding") or "").strip().lower()
    unpack = zlib.decompressobj(wbits=47) if packed in {"gzip", "x-gzip", "deflate"} else None
    while data := answer.read1(READ_BYTES):
        if unpack is None:
            yield data
            continue
        try:
            while data:
                yield unpack.decompress(data, UNPACKED_BYTES)
                data = unpack.unconsumed_tail
        except zlib.error as error:
            raise OSError(f"its {packed} is damaged: {error}") from None


class _Watch:
    """Ends connections that take too long to answer, however many bytes they trickle."""

    def __init__(self, seconds: float) -> None:
        self.over = ""
        """Why they were ended."""
        self.proxy = ""
        """Which they go through, without its password."""
        self._seconds = seconds
        self._connections: list[http.client.HTTPConnection] = []

    def seen(self, connection: http.client.HTTPConnection) -> None:
        self._connections.append(connection)

    def end(self) -> None:
        self.over = f"no answer within {self._seconds:g} s"
        for connection in self._connections:
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def _deadline(seconds: float) -> Iterator[_Watch]:
    watch = _Watch(seconds)
    timer = threading.Timer(seconds, watch.end)
    timer.daemon = True
    timer.start()
    try:
        yield watch
    finally:
        timer.cancel()


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
    """http and https alone, by way of the proxies in the environment."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Proxies(watch),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Http(watch.seen),
        _Https(watch.seen),
    ):
        opener.add_handler(handler)
    return opener


class _Proxies(urllib.request.ProxyHandler):
    """Those of the environment, with ``no_proxy`` as everywhere here: networks and ports too."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def proxy_open(
        self, req: urllib.request.Request, proxy: str, type: str
    ) -> http.client.HTTPResponse | None:
        parts = urlsplit(f"{type}://{req.host}")
        port = parts.port or (443 if type == "https" else 80)
        if is_direct(parts.hostname or "", port, variables=("no_proxy", "NO_PROXY")):
            return None
        self._watch.proxy = shown(proxy if "://" in proxy else f"http://{proxy}")
        return super().proxy_open(req, proxy, type)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, seen: Callable[[http.client.HTTPConnection], None]) -> None:
        super().__init__()
        self._seen = seen

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def make(host: str, **options: Any) -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection(host, **options)
            self._seen(connection)
            return connection

        return self.do_open(make, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, seen: Callable[[http.client.HTTPConnection], None]) -> None:
        super().__init__()
        self._seen = seen

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def make(host: str, **options: Any) -> http.client.HTTPConnection:
            connection = http.client.HTTPSConnection(host, **options)
            self._seen(connection)
            return connection

        return self.do_open(make, req)
